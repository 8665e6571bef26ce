"""The services as processes that tests kill and start again."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dev.bench.http_line import HttpLine
from dev.child import tail
from dev.ports import HOST, Ports
from dev.problems import StartFailed
from dev.tether import tethered
from dev.tokens import JWT_SECRET
from tests.databases import Database
from tests.journeys.crashing.volume import Volume
from tests.journeys.crashing.zygote import Order, Zygote
from tests.systems import ROOT, free_port_base

READY_TIMEOUT_S = 30.0
POLL_S = 0.005
LEASE_S = "3600"  # nothing here is about leases: no run is closed for its sidecar's absence


def environment(**settings: str) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), **settings}


@dataclass
class Process:
    """A process by its pidfd, so that a signal can never reach another one."""

    pidfd: int
    child: "subprocess.Popen[bytes] | None" = None

    def signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    async def ends(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """TimeoutError if it lives on."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.pidfd, ended.set)
        try:
            async with asyncio.timeout(timeout_s):
                await ended.wait()
        finally:
            loop.remove_reader(self.pidfd)
            os.close(self.pidfd)
        if self.child is not None:
            self.child.wait()

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.ends()


async def until_ready(ops_url: str) -> None:
    """Wait until a service's ops listener calls it ready."""
    async with asyncio.timeout(READY_TIMEOUT_S):
        while True:
            try:
                async with HttpLine(ops_url) as line:
                    if (await line.send(line.request("GET", "/readyz"))).status == 200:
                        return
            except OSError:
                pass
            await asyncio.sleep(POLL_S)


@dataclass
class Sidecar:
    """A sidecar's place in the world: its ports, its volume, and the process that is there now.

    With a zygote its disk can lose power; without, it is the very command of production.
    """

    folder: Path
    central_url: str
    zygote: Zygote | None = None
    settings: dict[str, str] = field(default_factory=dict)
    execution_ids: list[int] = field(default_factory=list)
    """What its writers write to."""

    def __post_init__(self) -> None:
        self.ports = Ports(free_port_base())
        self.volume = Volume.create(self.folder)
        self.log = self.folder / "sidecar.log"
        self.url = f"http://{HOST}:{self.ports.sidecar}"
        self.ops_url = f"http://{HOST}:{self.ports.sidecar_ops}"

    def start(self, fault: str | None = None, fault_count: int = 1) -> None:
        """Start a process; `fault` needs a zygote."""
        variables = environment(
            SIDECAR_CENTRAL_URL=self.central_url,
            SIDECAR_LISTEN=f"{HOST}:{self.ports.sidecar}",
            SIDECAR_OPS_LISTEN=f"{HOST}:{self.ports.sidecar_ops}",
            SIDECAR_SPOOL_DIR=str(self.volume.live),
            **self.settings,
        )
        if self.zygote is not None:
            synced = str(self.volume.synced)
            order = Order(variables, str(self.log), synced, fault, fault_count)
            self.process = Process(self.zygote.fork(order))
        else:
            self.process = start_process("sidecar", variables, self.log)

    async def until_ready(self) -> None:
        try:
            await until_ready(self.ops_url)
        except TimeoutError as error:
            raise StartFailed("A sidecar did not become ready.", tail(self.log)) from error

    async def kill(self, chance: random.Random) -> None:
        """By SIGKILL alone, or (with a zygote) by a power cut just as well."""
        await self.process.kill()
        if self.zygote is not None and chance.random() < 0.5:
            self.volume.cut_power(chance)


def start_process(service: str, variables: dict[str, str], log: Path) -> Process:
    argv = [sys.executable, "-m", service, "serve"]
    with log.open("ab") as output:
        process = subprocess.Popen(
            tethered(argv, signal.SIGKILL),
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    return Process(os.pidfd_open(process.pid), process)


@asynccontextmanager
async def running_central(
    database: Database, log: Path, **settings: str
) -> AsyncIterator[tuple[str, Process]]:
    """The URL and the process of a `python -m central serve` on the database."""
    ports = Ports(free_port_base())
    variables = environment(
        CENTRAL_DATABASE_URL=database.central_url,
        CENTRAL_JWT_SECRET=JWT_SECRET,
        CENTRAL_LISTEN=f"{HOST}:{ports.central}",
        CENTRAL_OPS_LISTEN=f"{HOST}:{ports.central_ops}",
        CENTRAL_LEASE_S=LEASE_S,
        **settings,
    )
    process = start_process("central", variables, log)
    try:
        await until_ready(f"http://{HOST}:{ports.central_ops}")
        yield f"http://{HOST}:{ports.central}", process
    finally:
        await process.kill()
