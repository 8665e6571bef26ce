"""The Dockerfile, as hadolint sees it. That it builds and runs is `make image`."""

import subprocess
import sys
from pathlib import Path

from tests.house.conftest import Tree


def lint(dockerfile: str) -> str:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "-"], input=dockerfile, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_the_dockerfile_is_clean(tree: Tree) -> None:
    assert lint(tree["Dockerfile"]) == ""
    assert "DL3002" in lint("FROM python:3.13-slim\nUSER root\n")
