"""The services as processes that tests kill and start again."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from dev.bench.raw_http_client import RawHttpClient
from dev.parent_death import with_death_signal
from dev.ports import HOST, Ports
from dev.postgres import Cluster
from dev.problems import StartFailed
from dev.processes import tail
from dev.tokens import JWT_SECRET, mint
from dev.world import WORLD
from tests.journeys.crashing.fork_server import ForkServer, Order
from tests.journeys.crashing.volume import Volume
from tests.systems import ROOT, free_port_base

READY_TIMEOUT_S = 90.0  # of one that starts in half a second: whoever soaks does something else too
POLL_S = 0.005
LEASE_S = "3600"  # nothing here is about leases: no run is closed for its sidecar's absence


def environment(**settings: str) -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), **settings}


@dataclass
class Process:
    """A process, signalled by its pidfd, so that a signal can never reach another one."""

    pid: int
    pidfd: int
    child: "subprocess.Popen[bytes] | None" = None
    has_ended: bool = False

    def signal(self, number: int) -> None:
        """Nothing happens if it has ended."""
        if not self.has_ended:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """It does nothing while the block runs; its sockets stay, and the kernel fills them."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    async def ends(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """TimeoutError if it lives on."""
        if self.has_ended:
            return
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.pidfd, ended.set)
        try:
            async with asyncio.timeout(timeout_s):
                await ended.wait()
        finally:
            loop.remove_reader(self.pidfd)
        os.close(self.pidfd)
        self.has_ended = True
        if self.child is not None:
            self.child.wait()

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.ends()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does and nobody announces. TimeoutError if it does not."""
    async with asyncio.timeout(READY_TIMEOUT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)


async def sample(ops_url: str, name: str) -> int:
    """What a service's counter stands at, 0 if nothing was counted; labels belong to the name."""
    async with RawHttpClient(ops_url) as line:
        text = (await line.send(line.request("GET", "/metrics"))).body.decode()
    values = [row.rpartition(" ") for row in text.splitlines()]
    return sum(int(float(value)) for sample_name, _, value in values if sample_name == name)


async def until_sampled(ops_url: str, name: str, *, more: int) -> None:
    """Wait until a service's counter is so much higher. TimeoutError if it does not come to it."""
    before = await sample(ops_url, name)
    async with asyncio.timeout(READY_TIMEOUT_S):
        while await sample(ops_url, name) < before + more:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def until_ready(ops_url: str, log: Path) -> None:
    """Wait until a service's ops listener calls it ready."""
    deadline = asyncio.get_running_loop().time() + READY_TIMEOUT_S
    while not await _is_ready(ops_url):
        if asyncio.get_running_loop().time() > deadline:
            raise StartFailed("A service did not become ready.", tail(log))
        await asyncio.sleep(POLL_S)


async def _is_ready(ops_url: str) -> bool:
    try:
        async with RawHttpClient(ops_url) as line:
            return (await line.send(line.request("GET", "/readyz"))).status == 200
    except OSError:
        return False


@dataclass
class Sidecar:
    """A sidecar's place in the world: its ports, its volume, and the process that is there now.

    With a fork server its disk can lose power; without, the production command is run.
    """

    folder: Path
    central_url: str
    fork_server: ForkServer | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    execution_ids: list[int] = field(default_factory=list)
    """What its writers write to."""
    failing_syncs: float = 0.0
    """The share of its disk's syncs that fail, from its next start on; needs a fork server."""

    def __post_init__(self) -> None:
        self.token = mint(WORLD.owner.user_id)
        self.ports = Ports(free_port_base())
        self.volume = Volume.create(self.folder)
        self.log = self.folder / "sidecar.log"
        self.url = f"http://{HOST}:{self.ports.sidecar}"
        self.ops_url = f"http://{HOST}:{self.ports.sidecar_ops}"

    def start(self, fault: str | None = None, fault_count: int = 1) -> None:
        """Start a process; `fault` needs a fork server."""
        own = {
            "SIDECAR_CENTRAL_URL": self.central_url,
            "SIDECAR_LISTEN": f"{HOST}:{self.ports.sidecar}",
            "SIDECAR_OPS_LISTEN": f"{HOST}:{self.ports.sidecar_ops}",
            "SIDECAR_SPOOL_DIR": str(self.volume.live),
        }
        variables = environment(**(own | dict(self.settings)))
        if self.fork_server is not None:
            synced = str(self.volume.synced)
            order = Order(variables, str(self.log), synced, fault, fault_count, self.failing_syncs)
            self.process = Process(*self.fork_server.fork(order))
        else:
            argv = [sys.executable, "-m", "sidecar", "serve"]
            self.process = start_process(argv, variables, self.log)

    async def until_ready(self) -> None:
        await until_ready(self.ops_url, self.log)

    async def kill(self, chance: random.Random) -> None:
        """By SIGKILL alone, or (with a fork server) as well by a power cut."""
        self.process.signal(signal.SIGKILL)
        await self.dies(chance)

    async def dies(self, chance: random.Random) -> None:
        """Wait until the process has ended, and perhaps cut the power then."""
        await self.process.ends()
        if self.fork_server is not None and chance.random() < 0.5:
            self.volume.cut_power(chance)


def start_process(
    argv: list[str],
    variables: dict[str, str],
    log: Path,
    death_signal: signal.Signals = signal.SIGKILL,
) -> Process:
    """A process that ends with this one, by the given signal."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            with_death_signal(argv, death_signal),
            cwd=ROOT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    return Process(process.pid, os.pidfd_open(process.pid), process)


@dataclass
class Central:
    """A central's place: its ports, its database, and the process that is there now."""

    database_url: str
    log: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ports = Ports(free_port_base())
        self.url = f"http://{HOST}:{self.ports.central}"
        self.ops_url = f"http://{HOST}:{self.ports.central_ops}"

    def start(self) -> None:
        variables = environment(
            CENTRAL_DATABASE_URL=self.database_url,
            CENTRAL_JWT_SECRET=JWT_SECRET,
            CENTRAL_LISTEN=f"{HOST}:{self.ports.central}",
            CENTRAL_OPS_LISTEN=f"{HOST}:{self.ports.central_ops}",
            CENTRAL_LEASE_S=LEASE_S,
            **self.settings,
        )
        self.process = start_process(
            [sys.executable, "-m", "central", "serve"], variables, self.log
        )

    async def until_ready(self) -> None:
        await until_ready(self.ops_url, self.log)

    async def batches(self, outcome: str) -> int:
        """How many batches the process that runs now answered in this way."""
        return await sample(self.ops_url, f'central_batches_total{{outcome="{outcome}"}}')


@dataclass
class Postgres:
    """A cluster that a test may crash; what it has committed it keeps."""

    cluster: Cluster
    log: Path

    def start(self) -> None:
        self.process = start_process(self.cluster.argv, environment(), self.log, signal.SIGQUIT)

    async def until_ready(self) -> None:
        await until(lambda: self.cluster.is_ready(self.process.pid))

    async def crash(self) -> None:
        """Postgres' immediate shutdown: no farewell, no checkpoint, a recovery at next start."""
        self.process.signal(signal.SIGQUIT)
        await self.process.ends()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.start()
        try:
            await self.until_ready()
            yield
        finally:
            await self.crash()
