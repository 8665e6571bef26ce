"""A process that has imported the sidecar once, and from which sidecars are forked.

Most of a sidecar's 0.3 s of start are imports, so a few hundred starts in a minute or two need
this. What is forked is the service itself: `lifecycle.serve` with its settings from the
environment, as `python -m sidecar serve` runs it, in a process of its own that can be killed.

    python -m tests.journeys.crashing.fork_server

reads an `Order` per line from standard input and prints the process id of each.
"""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from dev.parent_death import set_death_signal, with_death_signal
from kit.http import logs
from tests.systems import ROOT


@dataclass(frozen=True)
class Order:
    """A sidecar to be started. `synced` makes its disk a `LossyDisk`; `faults` names points."""

    environment: dict[str, str]
    log: str
    synced: str | None = None
    fault: str | None = None
    """A fault point: the process kills itself when it has come to it `fault_count` times."""
    fault_count: int = 1
    failing_syncs: float = 0.0
    """The share of the disk's syncs that fail."""


class ForkServer:
    """The process, for the `with` block. Its sidecars end with it at the latest."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            with_death_signal([sys.executable, "-m", __name__], signal.SIGKILL),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()

    def fork(self, order: Order) -> tuple[int, int]:
        """The id and a pidfd of the new process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        return pid, os.pidfd_open(pid)


def main() -> None:
    import uvloop  # noqa: F401  (the imports are what this process is for)

    import sidecar.lifecycle  # noqa: F401

    children: set[int] = set()
    for line in sys.stdin:
        # The last ones stay zombies until here, so that their ids cannot be anybody else's yet.
        children -= {pid for pid in children if os.waitpid(pid, os.WNOHANG)[0]}
        pid = os.fork()
        if not pid:
            become_sidecar(Order(**json.loads(line)))
        children.add(pid)
        print(pid, flush=True)  # noqa: T201


def become_sidecar(order: Order) -> NoReturn:
    import uvloop

    from sidecar import lifecycle
    from sidecar.settings import Settings
    from sidecar.spool.fault_injection import NO_FAULTS
    from tests.journeys.crashing.faults import DeathAt
    from tests.journeys.crashing.lossy_disk import LossyDisk

    set_death_signal(signal.SIGKILL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(order.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(order.environment)
    if order.synced is not None:
        chance = random.Random(os.getpid())
        LossyDisk(
            Path(order.synced),
            lambda name: chance.random() < order.failing_syncs,
            drops=chance.random() < 0.5,
        ).install()
    faults = DeathAt(order.fault, order.fault_count) if order.fault else NO_FAULTS
    settings = Settings.from_environment(os.environ)
    logs.configure(settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        os._exit(runner.run(lifecycle.serve(settings, faults)))


if __name__ == "__main__":
    main()
