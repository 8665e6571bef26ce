"""A process of the system: started with a log file, and ending with the process that started it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from dev.problems import StartFailed
from dev.tether import tethered

ROOT = Path(__file__).parent.parent
TAIL_BYTES = 4000
TAIL_LINES = 20


class Published(TypedDict):
    """What anybody needs to kill a process and start it again, from the root of the clone."""

    pid: int
    argv: list[str]
    env: dict[str, str]


@dataclass(frozen=True)
class Child:
    """A process that was started. It may have ended since."""

    role: str
    argv: list[str]
    env: dict[str, str]
    log: Path
    process: asyncio.subprocess.Process

    @classmethod
    async def start(
        cls, role: str, argv: list[str], env: Mapping[str, str], log: Path, death_signal: int
    ) -> "Child":
        """Start it in a session of its own, so that Ctrl-C is for us, who end things in order."""
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *tethered(argv, death_signal),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=env,
                start_new_session=True,
            )
        return cls(role, argv, dict(env), log, process)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def has_ended(self) -> bool:
        return self.process.returncode is not None

    def published(self) -> Published:
        """Its entry in the ready file. Nothing in it ties a restarted process to its parent."""
        return {"pid": self.pid, "argv": self.argv, "env": self.env}

    def start_failed(self, what: str) -> StartFailed:
        """The problem to raise; it shows the end of the log."""
        return StartFailed(f"{self.role} {what}.", tail(self.log))


def tail(log: Path) -> str:
    """The last lines of a file, indented."""
    octets = log.read_bytes()[-TAIL_BYTES:] if log.exists() else b""
    lines = octets.decode(errors="replace").splitlines()[-TAIL_LINES:]
    return "\n".join(f"    {line}" for line in lines)
