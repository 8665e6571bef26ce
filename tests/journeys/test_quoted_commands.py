"""Every command of ours that a document quotes runs in the image's layout, as it is quoted."""

import itertools
import json
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from dev.polling import wait_until
from tests.databases import open_folder
from tests.image_layout import ImageLayout, create_layout
from tests.journeys.calls import call, create
from tests.systems import Up, running_system

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("docs/*.md", "README.md", "helm/README.in.md", "helm/templates/NOTES.txt")
HELP_TEXTS = ("sidecar/cli/*.py", "central/cli/*.py")
POOL = "texera-workflow-computing-unit-pool"
SERVICE = r"(?:python -m )?(?:sidecar|central) [a-z][a-z-]*\b[^\n]*"
KUBECTL_EXEC = r"kubectl\b[^\n]* exec [^\n]*[^|\n](?:\|\n[^\n]*)?"
EXIT_CODES = {0, 1, 64, 65, 66, 69, 75}
"""Those that docs/operations.md gives its commands. Not among them: 2 (argparse), 126, 127."""
TIMEOUT_S = 60
UNSET = ("serve", "drain")
"""Run without settings, where they end with 64: with them they would stay, or end the system."""

KUBECTL = """
import json, os, re, sys
config = json.loads({config!r})
before, _, command = " ".join(sys.argv[1:]).partition(" -- ")
form = r"(?:-n (\\S+) )?exec (?:-it? )?([a-zA-Z0-9-]+) -c (\\S+)"
found = re.fullmatch(form, before)
if not found or not command:
    sys.exit("expected: kubectl [-n NAMESPACE] exec [-i] POD -c CONTAINER -- COMMAND")
namespace, pod, container = found.groups()
if container not in config:
    sys.exit(f"container not found: {{container}}")
if namespace not in (None, config[container]["namespace"]):
    sys.exit(f"pods not found in namespace {{namespace}}")
os.chdir(config[container]["folder"])
arguments = sys.argv[sys.argv.index("--") + 1:]
os.execvpe(arguments[0], arguments, config[container]["environment"])
"""
"""Refuses what kubectl refuses: options after the pod's command, a container that is not there."""


def quoted_commands() -> list[str]:
    """Each distinct command, as it is quoted: in backquotes, or in lines of their own."""
    found: dict[str, None] = {}
    for pattern in (*DOCUMENTS, *HELP_TEXTS):
        for path in sorted(ROOT.glob(pattern)):
            text = path.read_text()
            if pattern in DOCUMENTS:
                for quoted in re.findall(r"`([^`]+)`", text):
                    if re.fullmatch(
                        f"{SERVICE}|{KUBECTL_EXEC}", joined := " ".join(quoted.split())
                    ):
                        found[joined] = None
            for quoted in re.findall(rf"(?m)^ +(?:\$ )?({KUBECTL_EXEC}|(?<=\$ ){SERVICE})$", text):
                found[" ".join(quoted.split())] = None
    return list(found)


def spelled_out(quoted: str) -> Iterator[str]:
    """The commands that a quoted form means: `[...]` may be left out, `a|b` is either."""
    text = quoted.replace("\\|", "|")
    if "kubectl" in text:
        yield text
        return
    parts = [
        ("", part[1:-1]) if part.startswith("[") else (part,)
        for part in re.findall(r"\[[^]]*\]|[^\[]+", text)
    ]
    for chosen in itertools.product(*parts):
        words = [word.split("|") for word in "".join(chosen).split()]
        for alternative in itertools.product(*words):
            yield " ".join(alternative)


@dataclass(frozen=True)
class Images:
    """Both images' layouts beside a running system, and a kubectl that runs commands in them."""

    layouts: dict[str, ImageLayout]
    variables: dict[str, dict[str, str]]
    kubectl: Path
    placeholders: dict[str, str]

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        for name, value in self.placeholders.items():
            command = re.sub(rf"(?<![A-Z]){name}\b", value, command)
        if "kubectl" in command:
            environment, folder = {"PATH": f"{self.kubectl}:/usr/bin:/bin"}, ROOT
        else:
            service = "central" if "central" in command.split()[:3] else "sidecar"
            variables = {} if command.split()[-1] in UNSET else self.variables[service]
            environment = self.layouts[service].environment(variables)
            folder = self.layouts[service].folder
        return subprocess.run(
            ["sh", "-c", command],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    root = tmp_path_factory.mktemp("images")
    layouts = {name: create_layout(name, root / name) for name in ("sidecar", "central")}
    with open_folder() as folder, running_system(folder) as up:
        variables = {
            name: {k: v for k, v in up.published(name)["env"].items() if k.startswith(prefix)}
            for name, prefix in (("sidecar", "SIDECAR_"), ("central", "CENTRAL_"))
        }
        variables["central"]["CENTRAL_OWNER_DATABASE_URL"] = up.ready["database"]
        values = {
            "--source ID": f"--source {'A' * 43}",
            "ID": write_id(up),
            "POD": "computing-unit-7",
            "TEXT": "test",
            "FILE": "/dev/null",
            "N": "20",
            "TIME": "1h",
            "SECONDS": "20",
            "POSITION:HASH": f"1:{'0' * 64}",
        }
        yield Images(layouts, variables, kubectl(root / "bin", layouts, variables), values)


def kubectl(
    folder: Path, layouts: dict[str, ImageLayout], variables: dict[str, dict[str, str]]
) -> Path:
    """A folder with the program, which knows the pods of the chart."""
    chart = yaml.safe_load((ROOT / "helm/values.yaml").read_text())
    assert chart["poolNamespace"] == POOL
    known = {chart["sidecar"]["containerName"]: ("sidecar", POOL), "central": ("central", "texera")}
    config = {
        name: {
            "namespace": namespace,
            "folder": str(layouts[service].folder),
            "environment": layouts[service].environment(variables[service]),
        }
        for name, (service, namespace) in known.items()
    }
    unit = {"AUTH_JWT_SECRET": "hidden", "PATH": "/usr/bin:/bin"}
    config["computing-unit-master"] = {"namespace": POOL, "folder": "/", "environment": unit}
    folder.mkdir()
    program = folder / "kubectl"
    text = KUBECTL.format(config=json.dumps(config))
    program.write_text(f"#!{sys.executable}{text}")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return folder


def write_id(up: Up) -> str:
    run, token = create(up.ready), up.ready["users"]["owner"]["token"]
    status, written, _ = call(
        up.ready, "PATCH", f"/v1/executions/{run}", {"status": "RUNNING"}, token=token
    )
    assert status == 202
    settled = "/v1/flush?timeout=20"
    assert wait_until(lambda: call(up.ready, "POST", settled, token=token)[0] == 200, 30)
    return str(written["write_id"])


COMMANDS = list(dict.fromkeys(c for quoted in quoted_commands() for c in spelled_out(quoted)))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_quoted_command_runs_in_the_image(images: Images, command: str) -> None:
    done = images.run(command)

    said = f"{done.stdout}{done.stderr}"
    assert done.returncode in EXIT_CODES, said
    assert "Traceback" not in said
    if "kubectl" in command:
        assert "expected: kubectl" not in said
        assert "not found" not in said


def test_the_documents_quote_commands_of_every_kind() -> None:
    """An extraction that finds nothing would pass, too."""
    heads = {tuple(shlex.split(command)[:2]) for command in COMMANDS}

    assert {("sidecar", "spool"), ("sidecar", "doctor"), ("central", "audit")} <= heads
    assert any("computing-unit-master" in command for command in COMMANDS)
    assert any(f"-n {POOL} exec" in command for command in COMMANDS)


@pytest.mark.parametrize(
    "command",
    [
        "kubectl exec POD -c sidecar -- sidecar spool ls",
        "kubectl exec POD -c cu-sidecar -- sidecars spool ls",
        "kubectl exec POD -- sidecar spool ls -c cu-sidecar",
        "sidecar spool list",
        "sidecar spool ls --every",
        "python -m sidecars spool ls",
    ],
)
def test_the_check_sees_a_command_that_does_not_run(images: Images, command: str) -> None:
    done = images.run(command)

    unknown = "ModuleNotFoundError" in done.stderr or "No module" in done.stderr
    assert unknown or done.returncode not in EXIT_CODES or "kubectl" in command
    assert done.returncode != 0
