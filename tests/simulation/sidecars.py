"""A sidecar's lives: the real spool, delivery, renewals and calls, until it is killed.

    start --> serving --kill--> dead --restart--> serving ...
                       (files as they are, or after a power cut)

A killed sidecar's tasks are cancelled, and nothing that they do afterwards matters: its files were
copied at that instant, its callers have lost their connections, and what it had sent to central
arrives or not. `FaultPoint`s kill it between two steps of a write; the plan kills it at any time.
"""

import asyncio
import random
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from nacl.signing import SigningKey

from sidecar.delivery.loop import Delivery
from sidecar.leases.health_check import AlwaysUp
from sidecar.leases.renewer import LeaseRenewer
from sidecar.metrics import Metrics
from sidecar.spool.bindings import Binding, Grant
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.entry import Entry, NewEntry, WriteRecord
from sidecar.spool.fault_injection import FaultInjector, FaultPoint
from sidecar.spool.maintenance import run_maintenance
from sidecar.spool.spool import Spool
from sidecar.spool.writer import Opener
from sidecar.upstream.central_api import Central
from sidecar.upstream.client import CallContext, CentralClient
from sidecar.upstream.probe import CentralProbe
from sidecar.upstream.source_identity import SourceIdentity
from sidecar.wire import v1
from tests.simulation.disk import SteppedWriter, Volume
from tests.simulation.network import Network
from tests.simulation.trace import Trace
from tests.simulation.virtual_loop import Killed, VirtualLoop

T = TypeVar("T")
METRICS = Metrics()  # nobody reads them here, and making them takes as long as a short run
UPSTREAM_TIMEOUT_S = 10.0
RENEW_S = 20.0


class ConnectionLost(Exception):
    """The sidecar was killed before it answered."""


class Sidecar:
    """One volume, and one process at a time on it."""

    def __init__(
        self,
        number: int,
        loop: VirtualLoop,
        network: Network,
        limits: SpoolLimits,
        folder: Path,
        chance: random.Random,
        trace: Trace,
    ) -> None:
        self._loop = loop
        self._network = network
        self._limits = limits
        self._chance = chance
        self._trace = trace
        self.identity = SourceIdentity(SigningKey(bytes([number]) * 32), "central")
        self.source_id = self.identity.source_id
        self.volume = Volume(folder / f"sidecar-{number}", chance)
        self.process: Process | None = None
        self.kill_chance = 0.0
        """At each fault point."""
        self.slow_disk_chance = 0.0
        self.start_count = 0
        self.started_at = 0.0
        self.violations: list[str] = []
        self._is_stopped = False

    async def start(self) -> None:
        self.start_count += 1
        self.started_at = self._loop.time()
        self._trace.add(self._loop.time(), self.source_id[:4], "starts")
        process = Process(self, self._loop, self._network, self._limits, self._chance)
        self.process = process
        await process.open()

    def kill(self, *, power_lost: bool) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        self._trace.add(self._loop.time(), self.source_id[:4], "killed", power_lost)
        self.volume.crash(power_lost=power_lost)
        process.die()
        self._loop.call_later(self._chance.uniform(0.5, 20.0), self._restart)

    def stop(self) -> None:
        """For good."""
        self._is_stopped = True
        self.kill(power_lost=False)

    def _restart(self) -> None:
        if self.process is None and not self._is_stopped:
            self.starting = self._loop.create_task(self._start_again())

    async def _start_again(self) -> None:
        with suppress(Killed):  # at a fault point of its first commit: the next restart is set
            await self.start()

    def hit(self, process: "Process", point: FaultPoint) -> None:
        """A fault point. Raises `Killed`."""
        if process is not self.process:
            raise Killed
        if self._chance.random() < self.kill_chance:
            self._trace.add(self._loop.time(), self.source_id[:4], "at", point)
            self.kill(power_lost=self._chance.random() < 0.5)
            raise Killed

    def commit_latency_s(self) -> float:
        if self._chance.random() < self.slow_disk_chance:
            return self._chance.uniform(0.1, 2.0)
        return self._chance.uniform(0.0002, 0.003)

    # Calls of the computing unit

    async def call(self, work: "Coroutine[Any, Any, T]") -> T:
        """Runs in the sidecar's process. Raises `ConnectionLost` if that is killed before."""
        process = self.process
        if process is None or not process.is_open:
            work.close()
            raise ConnectionLost
        task = process.spawn(work)
        await asyncio.wait({task})
        if process is not self.process or task.cancelled():
            raise ConnectionLost
        return task.result()

    @property
    def spool(self) -> Spool:
        assert self.process is not None
        return self.process.spool


class Process:
    """One life."""

    def __init__(
        self,
        sidecar: Sidecar,
        loop: VirtualLoop,
        network: Network,
        limits: SpoolLimits,
        chance: random.Random,
    ) -> None:
        self._sidecar = sidecar
        self._loop = loop
        self._tasks: list[asyncio.Task[Any]] = []
        self.is_open = False
        clocks: dict[str, Any] = {"monotonic": loop.time}
        wall_clock = partial(_wall_clock, loop, chance.uniform(-3600, 3600))
        self.spool = Spool(
            sidecar.volume.directory,
            limits,
            faults=self,
            wall_clock=wall_clock,
            new_writer=self._new_writer,
            **clocks,
        )
        client = partial(
            CentralClient,
            network.session(sidecar.source_id),
            "http://central",
            sidecar.identity,
            METRICS,
            timeout_s=UPSTREAM_TIMEOUT_S,
            wall_clock=wall_clock,
            uniform=chance.uniform,
            **clocks,
        )
        # Nothing here asks whether central is reachable: the probe does not run.
        probe = CentralProbe(network.session(sidecar.source_id), "http://central", METRICS)
        self.central = Central(client(), client(), client(), probe)
        self.delivery = Delivery(
            self.spool,
            self.central,
            METRICS,
            self,
            faults=self,
            uniform=chance.uniform,
            **clocks,
        )
        self._chance = chance

    def _new_writer(self, open_file: Opener, *, faults: FaultInjector) -> SteppedWriter:
        self._writer = SteppedWriter(
            open_file,
            faults=faults,
            volume=self._sidecar.volume,
            latency_s=self._sidecar.commit_latency_s,
        )
        return self._writer

    async def open(self) -> None:
        await self._of_this_process(self.spool.open())
        self.leases = LeaseRenewer(
            self.spool,
            self.central,
            AlwaysUp(),
            METRICS,
            period_s=RENEW_S,
            monotonic=self._loop.time,
            uniform=self._chance.uniform,
        )
        self.spool.bindings.on_bound = self.leases.on_bound
        self.spool.on_append.append(self.leases.on_write)
        for work in (self.delivery.run(), self.leases.run(), run_maintenance(self.spool)):
            self.spawn(work, is_service=True)
        self.is_open = True

    async def _of_this_process(self, work: "Coroutine[Any, Any, None]") -> None:
        task = self.spawn(work)
        await asyncio.wait({task})
        if task.cancelled() or self._sidecar.process is not self:
            raise Killed
        task.result()

    def spawn(
        self, work: "Coroutine[Any, Any, T]", *, is_service: bool = False
    ) -> "asyncio.Task[T]":
        task = self._loop.create_task(work)
        self._tasks = [other for other in self._tasks if not other.done()]
        self._tasks.append(task)
        task.add_done_callback(_ignore)
        if is_service:
            task.add_done_callback(self._check_service)
        return task

    def _check_service(self, task: "asyncio.Task[Any]") -> None:
        if self._sidecar.process is self and not task.cancelled():
            error = task.exception()
            if not isinstance(error, Killed):
                self._sidecar.violations.append(f"a task of the sidecar ended: {error!r}")

    def die(self) -> None:
        self._writer.is_dead = True
        for task in self._tasks:
            task.cancel()
        self._loop.call_soon(self._bury, self._tasks)

    def _bury(self, tasks: "Sequence[asyncio.Task[Any]]") -> None:
        """Only now: whoever hit a fault point was still using the file."""
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()
            elif not task.done():
                task.add_done_callback(_ignore)
        self._writer.drop()

    # What the product calls

    def hit(self, point: FaultPoint) -> None:
        self._sidecar.hit(self, point)

    def on_settled(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None:
        """The caches of a real sidecar."""

    def invalidate_all(self) -> None:
        raise AssertionError("the listener above does not fail")

    # What the computing unit calls

    async def bind(self, execution_id: int) -> Binding:
        reply = await self.central.bind(execution_id, CallContext(token="t"))
        bound = msgspec.json.decode(reply.body, type=v1.BoundExecution)
        binding = Binding(
            execution_id,
            bound.workflow_id,
            bound.computing_unit_id,
            bound.user_id,
            bound.warehouse,
            created_here=False,
        )
        await self.spool.bindings.record(
            binding, Grant(b"token", execution_id, bound.user_id, reply.token_expires_at or 0)
        )
        return binding

    async def append(self, new: NewEntry) -> int:
        return await self.spool.append(new)


def _ignore(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled():
        task.exception()


def _wall_clock(loop: VirtualLoop, offset_s: float) -> float:
    return 1_700_000_000 + loop.time() + offset_s
