"""`python -m central ...` as an operator runs it."""

import os
import subprocess
import sys
from dataclasses import dataclass

from dev.tokens import JWT_SECRET
from tests.databases import ROOT


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    exit_code: int
    output: str
    errors: str


def central(database_url: str, *arguments: str, **variables: str) -> Done:
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "CENTRAL_DATABASE_URL": database_url,
        "CENTRAL_JWT_SECRET": JWT_SECRET,
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-m", "central", *arguments],
        check=False,
        cwd=ROOT,
        env={name: value for name, value in environment.items() if value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Done(done.returncode, done.stdout, done.stderr)
