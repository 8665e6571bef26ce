"""The layout of an image on this machine, made by the Dockerfile's own steps.

`/opt/venv` and `/app` are folders below another root, and the packages are those of the tests'
environment. What the Dockerfile copies and runs after the packages is copied and run as it stands
there, so that a command is found, or not, as in the image. The images themselves are `make image`.
"""

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PREFIXES = ("/opt/venv", "/app")


@dataclass(frozen=True)
class ImageLayout:
    root: Path
    path: str
    """PATH of the image's processes."""
    folder: Path
    """Their working directory."""

    def environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        """The image's environment with these settings, and nothing of the tests' own."""
        return {**variables, "PATH": self.path}


def create_layout(target: str, root: Path) -> ImageLayout:
    stages = _stages((ROOT / "Dockerfile").read_text())
    venv = root / "opt/venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    # In place of the packages that the image installs.
    (venv / _packages().relative_to(sys.prefix) / "packages.pth").write_text(f"{_packages()}\n")
    for instruction, text in stages[f"{target}-build"]:
        if instruction == "COPY" and " /app/" in text:
            source, destination = text.split()
            shutil.copytree(ROOT / source, root / destination.lstrip("/"))
        elif instruction == "RUN" and f"/bin/{target}" in text:
            subprocess.run(["sh", "-c", _below(root, text)], check=True)
    settings = dict(stages[target])
    path = settings["ENV"].removeprefix("PATH=")
    return ImageLayout(
        root,
        _below(root, path).replace("$PATH", "/usr/local/bin:/usr/bin:/bin"),
        Path(_below(root, settings["WORKDIR"])),
    )


def _packages() -> Path:
    return Path(sysconfig.get_path("purelib"))


def _below(root: Path, text: str) -> str:
    return re.sub("|".join(PREFIXES), lambda found: f"{root}{found.group()}", text)


def _stages(dockerfile: str) -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, by its name."""
    stages: dict[str, list[tuple[str, str]]] = {}
    joined = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", dockerfile))
    for line in filter(None, joined.splitlines()):
        instruction, _, text = line.partition(" ")
        if instruction == "FROM":
            instructions = stages.setdefault(text.rpartition(" AS ")[2], [])
        elif stages:
            instructions.append((instruction, text))
    return stages
