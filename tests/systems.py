"""`python -m dev up` for tests: the real command, on ports of its own."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dev.polling import wait_until
from dev.ports import Ports
from dev.problems import DevProblem
from dev.processes import ProcessDescription
from dev.ready import Ready
from tests.databases import share_initdb

ROOT = Path(__file__).parent.parent
UP_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 30.0
DOWN_TIMEOUT_S = 60.0
PORTS = 25  # from one base to the next: dev.ports.Ports reaches 22 beyond its own
FIRST_BASE, LAST_BASE = 12_000, 32_000  # below the ports that the kernel hands out by itself


@dataclass
class Up:
    """A running `dev up`, and the contents of its ready file."""

    process: "subprocess.Popen[str]"
    ready_file: Path
    ready: Ready
    restarted: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def end(self, signal_number: int = signal.SIGTERM) -> int:
        """Send the signal and wait; the exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(DOWN_TIMEOUT_S)

    def published(self, role: str) -> ProcessDescription:
        """The command and environment of this role's process."""
        return self.ready["processes"][role]

    def restart(self, role: str, log: Path = Path(os.devnull)) -> "subprocess.Popen[bytes]":
        """Restart a process by the ready file's argv and env, as a script would."""
        published = self.published(role)
        with log.open("ab") as output:
            process = subprocess.Popen(
                published["argv"],
                env=published["env"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.restarted.append(process)
        return process

    def kill_and_restart(self, role: str) -> None:
        """As above, after SIGKILL, for the sidecar or central; waits until it is ready."""
        pid = self.published(role)["pid"]
        os.kill(pid, signal.SIGKILL)
        assert wait_until_gone([pid]) == []
        self.restart(role)
        ops = {"sidecar": self.ready["sidecar_ops"], "central": self.ready["central_ops"]}[role]
        assert wait_until(lambda: is_ready(ops), READY_TIMEOUT_S)


def free_port_base() -> int:
    """A base whose ports are all free, reserved for this process even while nothing listens."""
    while True:
        base = FIRST_BASE + PORTS * secrets.randbelow((LAST_BASE - FIRST_BASE) // PORTS)
        if not claim(base):
            continue
        try:
            Ports(base).check_free(postgres=True, latency=True)
        except DevProblem:
            continue
        return base


def claim(base: int) -> bool:
    """Claims the base for the life of this process; false if another test process has it."""
    if sys.platform != "linux":
        return True
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(
            f"\0texera-test-ports-{base}"
        )  # released when its last holder closes it (unix(7))
    except OSError:
        name.close()
        return False
    name.detach()
    return True


def start_up(folder: Path, *arguments: str, base: int | None = None) -> Up:
    """Start the command and wait for its ready file, which it writes to `folder`.

    `folder` is also where it may make its temporary files, so that a test can see what it leaves.
    """
    share_initdb()
    ready_file = folder / "ready.json"
    base = free_port_base() if base is None else base
    command = [sys.executable, "-m", "dev", "up", "--ready-file", str(ready_file)]
    with (folder / "up.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port-base", str(base), *arguments],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            text=True,
        )
    wait_until(lambda: ready_file.exists() or process.poll() is not None, UP_TIMEOUT_S)
    if not ready_file.exists():
        process.kill()
        raise AssertionError((folder / "up.log").read_text())
    return Up(process, ready_file, json.loads(ready_file.read_text()))


@contextmanager
def running_system(folder: Path, *arguments: str) -> Iterator[Up]:
    """A system for the block, ended in order afterwards if the block did not end it."""
    up = start_up(folder, *arguments)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.end()
        for process in up.restarted:  # `dev up` has ended them; they are ours to reap
            process.wait(DOWN_TIMEOUT_S)


def is_ready(ops_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{ops_url}/readyz", timeout=5) as response:  # noqa: S310
            return bool(response.status == 200)
    except OSError:
        return False


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pids: list[int], timeout_s: float = 10.0) -> list[int]:
    """The processes that are still alive after a timeout; empty as soon as none is."""
    wait_until(lambda: not any(map(is_alive, pids)), timeout_s)
    return [pid for pid in pids if is_alive(pid)]
