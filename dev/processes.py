"""The processes of one run of the system, and the temporary folder that they are known by.

Every process of a run has DEV_RUN=<folder>:<role> in its environment. The environment is part of
the ready file, so a process that a user killed and started again is found as well.

`python -m dev cleanup --run-dir DIR` ends what a killed `dev up` left, and removes its folder. It
waits until its standard input ends: `dev up` alone holds the other end of that pipe, so this
happens when `dev up` ends, also by SIGKILL. After an orderly end nothing is left for it to do.
"""

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from dev.polling import Probe, wait_until
from dev.problems import StartFailed

ROOT = Path(__file__).parent.parent
MARKER = "DEV_RUN"
PREFIX = "texera-dev-"
# What a Python may need to find its own libraries and packages (HOME leads to a user's own).
INHERITED_VARIABLES = ("PATH", "HOME", "PYTHONPATH", "LD_LIBRARY_PATH")

START_TIMEOUT_S = 30.0  # each starts within half a second; a busy machine takes longer
PROBE_INTERVAL_S = 0.02
IMMEDIATE_SHUTDOWN_TIMEOUT_S = 3.0  # for Postgres to end its sessions
TAIL_BYTES = 4000
TAIL_LINES = 20


@dataclass(frozen=True)
class RunFolder:
    """Everything that one run writes is in `path`."""

    path: Path

    @classmethod
    def create(cls, parent: Path) -> "RunFolder":
        """A new folder in `parent`. Others may pass through: Postgres may run as another user."""
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
        """The file for the output of the process of this role."""
        return self.path / "logs" / f"{role}.log"

    def environment(
        self, role: str, settings: Mapping[str, str], environ: Mapping[str, str]
    ) -> dict[str, str]:
        """The whole environment for a process of this role; little of `environ` is passed on."""
        inherited = {name: environ[name] for name in INHERITED_VARIABLES if name in environ}
        return {**inherited, MARKER: f"{self.path}:{role}", **settings}

    def pids(self, role: str = "") -> list[int]:
        """The live processes of this role, or of all, whoever started them. Linux only."""
        processes = (int(process.name) for process in Path("/proc").glob("[0-9]*"))
        return sorted(pid for pid in processes if self.owns(pid, role))

    def owns(self, pid: int, role: str = "") -> bool:
        """Whether this is a live process of this role, or of any."""
        marker = f"{MARKER}={self.path}:{role}".encode()
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()  # empty once it has ended
        except OSError:
            return False  # it has ended, or is another user's
        return marker in environment and any(
            _is_marked(variable, marker, role) for variable in environment.split(b"\0")
        )

    def signal(self, signal_number: int, role: str = "") -> None:
        """Send a signal to each of `pids`."""
        for pid in self.pids(role):
            try:
                os.kill(pid, signal_number)
            except ProcessLookupError:
                continue

    def remove(self) -> None:
        """Remove the folder with its content, if it is there."""
        if self.path.name.startswith(PREFIX) and self.path.exists():
            shutil.rmtree(self.path, ignore_errors=True)


def _is_marked(variable: bytes, marker: bytes, role: str) -> bool:
    """Whole variables are compared: one role's name may be the start of another's."""
    return variable == marker if role else variable.startswith(marker)


class ProcessDescription(TypedDict):
    """What is needed to kill a process and start it again, from the root of the clone."""

    pid: int
    argv: list[str]
    env: dict[str, str]


@dataclass(frozen=True)
class ManagedProcess:
    """A process that was started. It may have ended since."""

    role: str
    argv: list[str]
    env: dict[str, str]
    log: Path
    process: asyncio.subprocess.Process

    @classmethod
    async def start(
        cls,
        folder: RunFolder,
        role: str,
        argv: list[str],
        settings: Mapping[str, str],
        environ: Mapping[str, str] = os.environ,
    ) -> "ManagedProcess":
        """Start it in a session of its own: Ctrl-C reaches `dev` alone, which ends all in order."""
        env = folder.environment(role, settings, environ)
        log = folder.log(role)
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=env,
                start_new_session=True,
            )
        return cls(role, argv, env, log, process)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def has_ended(self) -> bool:
        return self.process.returncode is not None

    def describe(self) -> ProcessDescription:
        """Its entry in the ready file."""
        return {"pid": self.pid, "argv": self.argv, "env": self.env}

    async def wait_until(self, probe: Probe, timeout_s: float = START_TIMEOUT_S) -> None:
        """Repeat the probe until it is true. StartFailed if the process ends or time is up."""
        deadline = time.monotonic() + timeout_s
        while not await probe():
            if self.has_ended:
                raise self.start_failure(f"ended with exit code {self.process.returncode}")
            if time.monotonic() > deadline:
                raise self.start_failure(f"did not answer within {timeout_s:.0f} s")
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def terminate(self, signal_number: int = signal.SIGTERM) -> None:
        """Send the signal unless the process has ended, and wait for its end."""
        if not self.has_ended:
            self.process.send_signal(signal_number)
        await self.process.wait()

    def start_failure(self, what: str) -> StartFailed:
        """The problem to raise, with the end of the log."""
        return StartFailed(f"{self.role} {what}.", tail(self.log))


def tail(log: Path) -> str:
    """The last lines of a file, indented."""
    octets = log.read_bytes()[-TAIL_BYTES:] if log.exists() else b""
    lines = octets.decode(errors="replace").splitlines()[-TAIL_LINES:]
    return "\n".join(f"    {line}" for line in lines)


def clean_up(folder: RunFolder) -> None:
    """End every process of the run, Postgres by an immediate shutdown, and remove the folder."""
    for role in ("sidecar", "central", "latency"):
        folder.signal(signal.SIGKILL, role)
    folder.signal(signal.SIGQUIT, "postgres")
    wait_until(lambda: not folder.pids(), IMMEDIATE_SHUTDOWN_TIMEOUT_S)
    folder.signal(signal.SIGKILL)
    folder.remove()


def main(arguments: list[str]) -> int:
    """`python -m dev cleanup`: wait until standard input ends, then clean up."""
    parser = argparse.ArgumentParser(prog="python -m dev cleanup", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="the run's folder")
    folder = RunFolder(parser.parse_args(arguments).run_dir)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # only the end of its input ends it
    while os.read(sys.stdin.fileno(), 1):
        pass
    clean_up(folder)
    return 0
