"""`make image`: builds both images of the Dockerfile and starts each once, as its user.

With a docker or podman engine it builds and runs on the Dockerfile's own base image. Without, as
root on Debian with buildah and debootstrap, it builds on a Debian base made here and runs the
result in a chroot: the same steps and files on a substitute for the base. With neither it exits 69
(EX_UNAVAILABLE), not 1 as for an image that fails.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from dev.ports import free_port

ROOT = Path(__file__).parent.parent
EX_USAGE = 64
EX_UNAVAILABLE = 69
READY_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0

UID = 65532
SPOOL = "/var/lib/sidecar"
EMPTY_DIR = "uid=0,gid=0,mode=0777"
"""How Kubernetes mounts an emptyDir where the pod names no fsGroup, as the chart's does not."""
PYTHON = "/opt/venv/bin/python"
SERVICES: Mapping[str, dict[str, str]] = {
    "sidecar": {"SIDECAR_CENTRAL_URL": "http://127.0.0.1:9"},
    "central": {
        "CENTRAL_DATABASE_URL": "postgresql://nobody:none@127.0.0.1:9/none",
        "CENTRAL_JWT_SECRET": "not-a-secret",
    },
}
"""The required settings. Nothing listens on port 9: both services are ready without it."""

PROBE = """
import importlib.util, json, os
def writable():
    try:
        open("/app/probe", "w").close()
    except OSError:
        return False
    return True
names = ["sidecar", "central", "dev", "tests", "asyncpg", "jwt", "pip", "setuptools"]
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "uid": os.getuid(),
    "gid": os.getgid(),
    "root_is_writable": writable(),
    "capabilities": int(status["CapEff"], 16),
    "may_gain_privileges": status["NoNewPrivs"].strip() != "1",
    "found": [name for name in names if importlib.util.find_spec(name)],
}))
"""
AS_THE_CHART_RUNS_IT = {
    "uid": UID,
    "gid": UID,
    "root_is_writable": False,
    "capabilities": 0,
    "may_gain_privileges": False,
}
"""The chart's security contexts, as a process sees them."""
FOUND = {"sidecar": ["sidecar"], "central": ["central", "asyncpg", "jwt"]}


def repository(target: str) -> str:
    """The image's name without registry and tag; the chart's default."""
    return f"texera-cu-{target}"


class ImageProblem(Exception):
    """An image could not be built, or does not do what it should; the text names it."""


class Engine(Protocol):
    def build(self, target: str) -> int:
        """Build one target; returns the image's size in bytes."""

    def command(
        self, target: str, port: int, variables: Mapping[str, str], program: Sequence[str] = ()
    ) -> list[str]:
        """The command that runs the image, or another program in it, on a read-only root."""


def completed(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def output(*command: str | Path) -> str:
    """A command's output. Raises `ImageProblem` with the end of its error output."""
    done = completed([*map(str, command)])
    if done.returncode != 0:
        errors = (done.stderr or done.stdout).strip()[-2000:]
        raise ImageProblem(f"{' '.join(map(str, command[:4]))} ... failed:\n{errors}")
    return done.stdout.strip()


class Docker:
    """docker or podman, with a running engine behind it."""

    def __init__(self, client: str) -> None:
        self._client = client

    def build(self, target: str) -> int:
        output(self._client, "build", "--target", target, "--tag", self._tag(target), ".")
        return int(output(self._client, "image", "inspect", "-f", "{{.Size}}", self._tag(target)))

    def command(
        self, target: str, port: int, variables: Mapping[str, str], program: Sequence[str] = ()
    ) -> list[str]:
        options = ["--rm", "--read-only", f"--publish=127.0.0.1:{port}:{port}"]
        options += ["--cap-drop=ALL", "--security-opt=no-new-privileges", f"--user={UID}:{UID}"]
        options += [f"--tmpfs={SPOOL}:{EMPTY_DIR}"]
        options += [f"--env={name}={value}" for name, value in variables.items()]
        options += [f"--entrypoint={program[0]}"] if program else []
        return [self._client, "run", *options, self._tag(target), *program[1:]]

    def _tag(self, target: str) -> str:
        return f"{repository(target)}:dev"


class Buildah:
    """Debian's buildah on a base by debootstrap; runs images in a chroot with a read-only root.

    Its storage is in `folder`; `close` unmounts what would keep that from being deleted.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._roots: dict[str, Path] = {}

    def make_base(self) -> None:
        """A Debian with Python, in place of the base image: no registry of images is needed."""
        tree = self._folder / "base"
        codename = output("sh", "-c", '. /etc/os-release; echo "$VERSION_CODENAME"')
        # The mirror that apt uses here already.
        sources = output("apt-get", "indextargets", "--format", "$(REPO_URI)", f"Suite: {codename}")
        packages = "ca-certificates,python3,python3-pip,python3-venv"
        options = ("--variant=minbase", f"--include={packages}")
        output("debootstrap", *options, codename, tree, *sources.splitlines()[:1])
        (tree / "usr/bin/python").symlink_to("python3")
        container = self._buildah("from", "scratch")
        self._buildah("add", "--quiet", container, tree, "/")
        self._buildah("commit", "--quiet", container, "base")

    def build(self, target: str) -> int:
        self._buildah(
            "bud",
            "--isolation=chroot",
            "--network=host",
            "--volume=/etc/ssl/certs:/etc/ssl/certs:ro",  # a proxy's own authority, where one is
            "--build-arg=PYTHON_IMAGE=localhost/base",
            f"--target={target}",
            f"--tag={target}",
            ".",
        )
        container = self._buildah("from", f"--name={target}", target)
        self._roots[target] = Path(self._buildah("mount", container))
        (image,) = json.loads(self._buildah("images", "--json", target))
        return round(float(image["size"].split()[0]) * 1_000_000)

    def command(
        self, target: str, port: int, variables: Mapping[str, str], program: Sequence[str] = ()
    ) -> list[str]:
        config = json.loads(self._buildah("inspect", target))["OCIv1"]["config"]
        root = self._roots[target]
        spool = f"{root}{SPOOL}"
        steps = [
            f"mount --bind {root} {root} && mount -o remount,bind,ro {root}",
            f"mount --bind /dev {root}/dev && mount -t proc proc {root}/proc",
            f"{{ ! [ -d {spool} ] || mount -t tmpfs -o {EMPTY_DIR} tmpfs {spool}; }}",
            'exec "$@"',
        ]
        argv = program or [*config["Entrypoint"], *config["Cmd"]]
        return [
            *("unshare", "--mount", "sh", "-c", " && ".join(steps), "sh"),
            *("setpriv", "--no-new-privs", "chroot", f"--userspec={config['User']}", str(root)),
            *("env", "-i", *config["Env"]),
            *(f"{name}={value}" for name, value in variables.items()),
            *("sh", "-c", f'cd {config["WorkingDir"]} && exec "$@"', "sh", *argv),
        ]

    def close(self) -> None:
        self._buildah("rm", "--all")

    def _buildah(self, *arguments: str | Path) -> str:
        storage = (f"--root={self._folder}/storage", f"--runroot={self._folder}/run")
        return output("buildah", *storage, *arguments)


@contextmanager
def engine() -> Iterator[Engine | None]:
    """The available engine, or None."""
    for client in ("docker", "podman"):
        # `info` fails if the client has no engine.
        if shutil.which(client) and completed([client, "info"]).returncode == 0:
            print(f"image: with {client}", flush=True)
            yield Docker(client)
            return
    if os.geteuid() or not all(map(shutil.which, ("buildah", "debootstrap", "unshare"))):
        yield None
        return
    print("image: no container engine; with buildah on a Debian base", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="texera-image-"))
    buildah = Buildah(folder)
    try:
        buildah.make_base()
        yield buildah
    finally:
        buildah.close()
        shutil.rmtree(folder)


def check(engine: Engine, target: str) -> None:
    """Run the image and check what it promises."""
    port = free_port()
    found = json.loads(output(*engine.command(target, port, {}, [PYTHON, "-c", PROBE])))
    expected = AS_THE_CHART_RUNS_IT | {"found": FOUND[target]}
    if found != expected:
        raise ImageProblem(f"{target}: expected {expected}, found {found}")

    output(*engine.command(target, port, {}, [target, "--version"]))  # as `kubectl exec` finds it

    unset = completed(engine.command(target, port, {}))
    if unset.returncode != EX_USAGE:
        raise ImageProblem(f"{target}: unset, it exits {unset.returncode}: {unset.stderr[-2000:]}")

    prefix = target.upper()
    listen = {f"{prefix}_LISTEN": "127.0.0.1:0", f"{prefix}_OPS_LISTEN": f"0.0.0.0:{port}"}
    started_at = time.monotonic()
    process = subprocess.Popen(
        engine.command(target, port, SERVICES[target] | listen), stderr=subprocess.PIPE, text=True
    )
    try:
        await_ready(process, f"http://127.0.0.1:{port}/readyz")
        ready_s = time.monotonic() - started_at
        process.terminate()
        _, log = process.communicate(timeout=STOP_TIMEOUT_S)
    except BaseException:
        process.kill()
        print(process.communicate()[1][-2000:], file=sys.stderr)
        raise
    if process.returncode != 0:
        raise ImageProblem(f"{target}: SIGTERM ended it with {process.returncode}:\n{log[-2000:]}")
    print(f"image: {target} is ready after {ready_s:.1f} s as uid {UID} and stops on SIGTERM")


def await_ready(process: subprocess.Popen[str], url: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:  # not listening yet, or 503: not ready yet
            time.sleep(0.1)
    raise ImageProblem(f"{url} did not answer within {READY_TIMEOUT_S:g} s")


def main() -> int:
    """0 if both images pass, 1 if not, 69 if no engine is available."""
    try:
        with engine() as builder:
            if builder is None:
                print(
                    "image: neither docker nor podman has an engine; without them root, buildah "
                    "and debootstrap are needed (Debian: apt-get install buildah debootstrap)",
                    file=sys.stderr,
                )
                return EX_UNAVAILABLE
            for target in SERVICES:
                started_at = time.monotonic()
                megabytes = builder.build(target) / 1e6
                seconds = time.monotonic() - started_at
                print(f"image: {target} built in {seconds:.0f} s, {megabytes:.0f} MB", flush=True)
                check(builder, target)
    except ImageProblem as problem:
        print(f"image: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
