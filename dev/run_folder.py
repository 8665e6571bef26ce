"""The temporary folder of one run of the system, which is also what its processes are known by.

Every process of a run carries DEV_RUN=<folder>:<role> in its environment. The environment is part
of what the ready file publishes, so a process that somebody else started anew is found as well.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.account import Account

MARKER = "DEV_RUN"
# A unix socket's path has 107 bytes (unix(7)): /texera-dev-XXXXXXXX/postgres/.s.PGSQL.NNNNN is 44.
LONGEST_PARENT_BYTES = 63
PREFIX = "texera-dev-"
# What a Python may need to find its own libraries and packages (HOME leads to a user's own).
PASSED_ON = ("PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class RunFolder:
    """Everything that one run writes is in `path`."""

    path: Path

    @classmethod
    def create(cls, parent: Path) -> "RunFolder":
        """A new one in `parent`. Everybody may pass through: Postgres may run as another user."""
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent)).resolve()
        path.chmod(0o711)
        for name in ("logs", "spool"):
            (path / name).mkdir(mode=0o700)
        return cls(path)

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def postgres(self) -> Path:
        return self.path / "postgres"

    def log(self, role: str) -> Path:
        """Where the process of this role writes what it has to say."""
        return self.path / "logs" / f"{role}.log"

    def environment(
        self, role: str, settings: Mapping[str, str], environ: Mapping[str, str]
    ) -> dict[str, str]:
        """All that a process of this role needs; little of `environ`, the caller's own, is it."""
        passed_on = {name: environ[name] for name in PASSED_ON if name in environ}
        return {**passed_on, MARKER: f"{self.path}:{role}", **settings}

    def pids(self, role: str = "") -> list[int]:
        """The living processes of this role, or of any; whoever started them. Linux only."""
        marker = f"{MARKER}={self.path}:{role}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_bytes()  # empty once it has ended
            except OSError:
                continue  # it has ended, or is another user's
            if any(is_marked(variable, marker, role) for variable in environment.split(b"\0")):
                found.append(int(process.name))
        return sorted(found)

    def signal(self, signal_number: int, role: str = "") -> None:
        """Send a signal to each of `pids`."""
        for pid in self.pids(role):
            try:
                os.kill(pid, signal_number)
            except ProcessLookupError:
                continue

    def remove(self) -> None:
        """Remove it with all that is in it. Nothing happens if it is gone."""
        if self.path.name.startswith(PREFIX) and self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)


def temporary_folder(account: Account) -> Path:
    """The temporary folder, or the first common one that will do where this one will not.

    Postgres must be able to enter it and to make a socket in it, whose path has a limit.
    """
    usual = Path(tempfile.gettempdir()).resolve()
    for folder in (usual, Path("/tmp"), Path("/var/tmp")):  # noqa: S108 (mkdtemp follows)
        if len(os.fsencode(folder)) <= LONGEST_PARENT_BYTES and account.may_enter(folder):
            return folder
    return usual


def is_marked(variable: bytes, marker: bytes, role: str) -> bool:
    """Whole variables are compared: one role's name may begin another's."""
    return variable == marker if role else variable.startswith(marker)
