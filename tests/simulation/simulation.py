"""Deterministic simulation: sidecars, their computing units and central, in one process.

# What is real

The sidecar's spool on a real SQLite file (its writer without the thread, `disk.py`), delivery,
lease renewals, maintenance, the calls to central with signing, deadlines, retries and circuit
breakers; central's decoders and its fold. What is not: the network (`network.py`), central's store
(`central.py`, held against the real one by an integration test), the local HTTP API and the caches,
threads, and time (`virtual_loop.py`).

# What a seed decides

Everything: how many runs there are and what they write, the delay of each commit, read and
request, and the faults: lost, doubled and delayed requests and responses, foreign pages, cut links,
outages of central, rows that stay locked for up to an hour, kills between any two steps with or
without a power cut, runs that another sidecar takes over, a suspended machine, small spools, small
batches, a proxy that refuses large ones (always, or at times), and slow disks. When the faults have
stopped, `checker.py` checks what is left.

    plan(seed) --> faults and work until a horizon --> faults end --> all settled? --> check

# Replaying a seed

`make soak` runs SIMULATION_SEEDS seeds from SIMULATION_SEED on. A seed that fails is named; it does
the same each time, in any process:

    .venv/bin/python -m tests.simulation SEED           # its trace, its plan and its violations
    .venv/bin/python -m tests.simulation SEED COUNT     # the violations of many
"""

import asyncio
import logging
import random
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from unittest import mock

from central.domain.fold import Execution, WriterStatus
from sidecar.spool import schema
from sidecar.spool.capacity import SpoolLimits
from tests.simulation import checker
from tests.simulation.central import LEASE_S, MemoryCentral
from tests.simulation.computing_unit import ComputingUnit, Pace
from tests.simulation.network import Faults, Network
from tests.simulation.sidecars import Sidecar
from tests.simulation.trace import Trace
from tests.simulation.virtual_loop import InlineExecutor, VirtualLoop

SETTLE_WITHIN_S = 400.0
"""Once the faults have stopped: the longest backoffs and timeouts, a restart, some leases."""
CLOSER_PERIOD_S = 10.0
LONGEST_LOCK_S = 3600.0
LONG_LOCK_CHANCE = 0.01
"""Such a seed takes as long as thirty others."""
FIRST_EXECUTION_ID = 1001

schema.expected_signature()  # cached, and it makes an epoch of its own: not within the first run


@dataclass(frozen=True)
class Plan:
    """What one seed is about. Times are in virtual seconds, windows are (from, to)."""

    source_count: int
    runs_per_source: int
    pace: Pace
    faults: Faults
    outages: tuple[tuple[float, float], ...] = ()
    cuts: tuple[tuple[int, float, float], ...] = ()
    """By source."""
    locks: tuple[tuple[int, float, float], ...] = ()
    """By execution."""
    kills: tuple[tuple[int, float, bool], ...] = ()
    """By source; whether the power is lost too."""
    kill_chance: float = 0.0
    jumps: tuple[tuple[float, float], ...] = ()
    take_overs: tuple[tuple[int, float], ...] = ()
    slow_disk_chance: float = 0.0
    max_entries: int = 1000
    batch_bytes: int = 100_000
    proxy_bytes: int = 10**9
    """A proxy before central refuses larger bodies."""
    checkpoint_frames: int = 100
    executions_per_call: int = 10_000
    """Central's limit, and how many the sidecar sends."""

    @property
    def horizon_s(self) -> float:
        """When the last fault is over."""
        ends = [to for _, to in self.outages] + [to for *_, to in (*self.cuts, *self.locks)]
        times = [at for _, at, _ in self.kills] + [at for at, _ in self.jumps]
        return max([30.0, *ends, *times, *(at for _, at in self.take_overs)])


def plan_of(seed: int) -> Plan:
    chance = random.Random(f"plan {seed}")
    source_count = chance.choice([1, 1, 1, 2])
    runs = chance.choice([1, 2, 3])
    length_s = chance.choice([3.0, 20.0, 60.0, 240.0])
    ids = range(FIRST_EXECUTION_ID, FIRST_EXECUTION_ID + source_count * runs)
    steps = chance.randrange(3, 16)

    def windows(most: int, longest_s: float) -> list[tuple[float, float]]:
        starts = [chance.uniform(0, length_s) for _ in range(chance.randrange(most + 1))]
        return [(at, at + min(longest_s, chance.expovariate(5 / longest_s))) for at in starts]

    plan = Plan(
        source_count=source_count,
        runs_per_source=runs,
        pace=Pace(steps, length_s / steps),
        faults=Faults(
            lost=chance.choice([0, 0, 0.05, 0.3]),
            response_lost=chance.choice([0, 0.05, 0.3]),
            duplicated=chance.choice([0, 0.1, 0.5]),
            slow=chance.choice([0, 0.05, 0.2]),
            page=chance.choice([0, 0, 0.1]),
        ),
        outages=tuple(windows(1, 300.0)),
        cuts=tuple((chance.randrange(source_count), *window) for window in windows(2, 300.0)),
        locks=tuple((chance.choice(ids), *window) for window in windows(2, 120.0)),
        kills=tuple(
            (chance.randrange(source_count), at, chance.random() < 0.5) for at, _ in windows(3, 1.0)
        ),
        kill_chance=chance.choice([0, 0, 0.003, 0.02]),
        jumps=tuple((at, chance.uniform(10, 7200)) for at, _ in windows(1, 1.0)),
        take_overs=tuple((chance.choice(ids), at) for at, _ in windows(1, 1.0) if source_count > 1),
        slow_disk_chance=chance.choice([0, 0, 0.05]),
        max_entries=chance.choice([16, 1000, 1000]),
        batch_bytes=chance.choice([600, 2000, 100_000]),
        proxy_bytes=chance.choice([10**9, 10**9, 2500]),
        checkpoint_frames=chance.choice([20, 100]),
        executions_per_call=chance.choice([1, 2, 10_000]),
    )
    is_long_lock = chance.random() < LONG_LOCK_CHANCE
    unlimited = chance.choice([0.0, 0.5])
    plan = replace(plan, faults=replace(plan.faults, unlimited=unlimited))
    if is_long_lock:
        # Alone: other faults would interrupt the thousand and more deferrals.
        lock = chance.choice(ids), 0.0, chance.uniform(0.7, 1.0) * LONGEST_LOCK_S
        plan = replace(plan, faults=Faults(), kills=(), kill_chance=0.0, jumps=(), locks=(lock,))
    return plan


@dataclass(frozen=True)
class Result:
    seed: int
    digest: str
    violations: list[str]
    virtual_s: float
    acknowledged_count: int
    start_count: int
    trace: list[str] = field(default_factory=list)


def simulate(seed: int, plan: Plan | None = None, *, keep_trace: bool = False) -> Result:
    """One run, from its plan to what is wrong with how it ended."""
    plan = plan or plan_of(seed)
    chance = random.Random(f"run {seed}")
    memory = Path("/dev/shm")  # noqa: S108 (a folder in memory, where there is one)
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    loop = VirtualLoop(chance)
    asyncio.set_event_loop(loop)
    trace = Trace(is_kept=keep_trace)
    try:
        with seeded_product(chance, plan), errors_logged() as logged:
            world = World(seed, plan, loop, folder, chance, trace)
            found = loop.run_until_complete(world.run())
            loop.run_until_complete(world.stop())
        return Result(
            seed,
            trace.digest,
            [*found, *logged, *loop.failures],
            loop.time(),
            sum(len(unit.acknowledged) for unit in world.units),
            sum(unit.sidecar.start_count for unit in world.units),
            trace.lines,
        )
    finally:
        asyncio.set_event_loop(None)
        loop.close()
        shutil.rmtree(folder)


class World:
    def __init__(
        self,
        seed: int,
        plan: Plan,
        loop: VirtualLoop,
        folder: Path,
        chance: random.Random,
        trace: Trace,
    ) -> None:
        self._plan = plan
        self._loop = loop
        self._trace = trace
        self._chance = chance
        self.central = MemoryCentral(executions_per_call=plan.executions_per_call)
        self.network = Network(loop, self.central, chance, trace)
        limits = SpoolLimits(64 * 1024 * 1024, plan.max_entries)
        self.units = [
            ComputingUnit(
                Sidecar(number, loop, self.network, limits, folder, chance, trace),
                loop,
                chance,
                trace,
            )
            for number in range(1, plan.source_count + 1)
        ]
        for number in range(plan.source_count * plan.runs_per_source):
            execution_id = FIRST_EXECUTION_ID + number
            self.central.executions[execution_id] = Execution(
                execution_id=execution_id,
                writer_status=WriterStatus.WRITER,
                user_id=1,
                workflow_id=7,
            )

    async def run(self) -> list[str]:
        """Returns the violations."""
        plan, loop = self._plan, self._loop
        for unit in self.units:
            await unit.sidecar.start()
        self._schedule_faults()
        closing = loop.create_task(self._close_lapsed())
        work = [
            loop.create_task(unit.run(execution_id, plan.pace))
            for index, unit in enumerate(self.units)
            for execution_id in self._executions_of(index)
        ]
        work += [loop.create_task(self._take_over(*each)) for each in plan.take_overs]
        try:
            await asyncio.sleep(plan.horizon_s)
            self._end_faults()
            await asyncio.wait(work, timeout=SETTLE_WITHIN_S)
            found = [repr(task.exception()) for task in work if task.done() and task.exception()]
            found += await self._settle()
            return found or await checker.violations(self.central, self.units, loop.time())
        finally:
            for task in (*work, closing):
                task.cancel()
            await asyncio.wait([*work, closing])

    async def stop(self) -> None:
        for unit in self.units:
            unit.sidecar.stop()
        await asyncio.sleep(1.0)  # their tasks end

    def _executions_of(self, index: int) -> range:
        first = FIRST_EXECUTION_ID + index * self._plan.runs_per_source
        return range(first, first + self._plan.runs_per_source)

    # Faults

    def _schedule_faults(self) -> None:
        plan, network, central, at = self._plan, self.network, self.central, self._loop.call_at
        network.faults, network.proxy_bytes = plan.faults, plan.proxy_bytes
        for unit in self.units:
            unit.sidecar.kill_chance = plan.kill_chance
            unit.sidecar.slow_disk_chance = plan.slow_disk_chance
        for since, to in plan.outages:
            at(since, setattr, network, "central_is_down", True)
            at(to, setattr, network, "central_is_down", False)
        for number, since, to in plan.cuts:
            at(since, network.cut.add, self.units[number].sidecar.source_id)
            at(to, network.cut.discard, self.units[number].sidecar.source_id)
        for execution_id, since, to in plan.locks:
            at(since, central.locked.add, execution_id)
            at(to, central.locked.discard, execution_id)
        for number, when, power_lost in plan.kills:
            at(when, partial(self.units[number].sidecar.kill, power_lost=power_lost))
        for when, seconds in plan.jumps:
            at(when, self._loop.jump, seconds)

    def _end_faults(self) -> None:
        self.network.faults = Faults()
        self.network.cut.clear()
        self.network.central_is_down = False
        self.central.locked.clear()
        for unit in self.units:
            unit.sidecar.kill_chance = unit.sidecar.slow_disk_chance = 0.0

    async def _take_over(self, execution_id: int, at_s: float) -> None:
        """Another sidecar binds the run as soon as its lease has lapsed, which is now."""
        await asyncio.sleep(at_s)
        owner = (execution_id - FIRST_EXECUTION_ID) // self._plan.runs_per_source
        other = self.units[(owner + 1) % len(self.units)]
        self.central.lapse(execution_id, self._loop.time())
        await other.run(execution_id, Pace(3, 1.0))

    async def _close_lapsed(self) -> None:
        """Central's closer. Time in which central was down, or the machine asleep, counts for
        nobody."""
        served_since = last = self._loop.time()
        while True:
            await asyncio.sleep(CLOSER_PERIOD_S)
            now = self._loop.time()
            if self.network.central_is_down or now - last > 2 * CLOSER_PERIOD_S:
                served_since = now
            elif now - served_since >= LEASE_S:
                for execution_id in self.central.close_lapsed(now):
                    self._trace.add(now, "closed", execution_id)
                    self._check_closed(execution_id, now)
            last = now

    def _check_closed(self, execution_id: int, now: float) -> None:
        """No run is closed whose sidecar knew of it, and reached central all that time."""
        if execution_id in {taken for taken, _ in self._plan.take_overs}:
            return
        for unit in self.units:
            process, source_id = unit.sidecar.process, unit.sidecar.source_id
            if process is None or not process.is_open:
                continue
            last_fault_at = self.network.last_fault_at.get(source_id, 0.0)
            is_well = now - max(unit.sidecar.started_at, last_fault_at) > LEASE_S + CLOSER_PERIOD_S
            if is_well and process.spool.bindings.binding(execution_id) is not None:
                unit.sidecar.violations.append(f"execution {execution_id}: alive, and closed")

    async def _settle(self) -> list[str]:
        """Waits until nothing is left to deliver, and one lease longer."""
        until = self._loop.time() + SETTLE_WITHIN_S
        while any(self._is_busy(unit) for unit in self.units):
            if self._loop.time() > until:
                return [text for unit in self.units for text in _left(unit)]
            await asyncio.sleep(1.0)
        await asyncio.sleep(LEASE_S)
        return []

    def _is_busy(self, unit: ComputingUnit) -> bool:
        process = unit.sidecar.process
        return process is None or not process.is_open or process.spool.queues.entry_count > 0


def _left(unit: ComputingUnit) -> list[str]:
    process = unit.sidecar.process
    left = "it is down" if process is None else f"{process.spool.queues.lengths()} wait"
    return [f"not settled: {left}", *unit.sidecar.violations]


@contextmanager
def seeded_product(chance: random.Random, plan: Plan) -> Iterator[None]:
    """The product's own randomness, threads and sizes, for one run."""

    def token_hex(size: int) -> str:
        return chance.randbytes(size).hex()

    patches: list[tuple[str, object]] = [
        ("sidecar.spool.file.ThreadPoolExecutor", InlineExecutor),
        ("sidecar.spool.capacity.RESERVE_FILE_BYTES", 4096),
        ("sidecar.spool.file.CHECKPOINT_FROM_FRAMES", plan.checkpoint_frames),
        ("sidecar.delivery.loop.BATCH_MAX_BYTES", plan.batch_bytes),
        ("sidecar.upstream.central_api.EXECUTIONS_PER_CALL", plan.executions_per_call),
    ]
    with mock.patch.object(secrets, "token_hex", token_hex):
        stack: list[Callable[[], object]] = []
        try:
            for target, value in patches:
                patch = mock.patch(target, value)
                patch.start()
                stack.append(patch.stop)
            yield
        finally:
            for stop in reversed(stack):
                stop()


@contextmanager
def errors_logged() -> Iterator[list[str]]:
    """Errors of the sidecar's log that carry an exception: nothing in a run may cause one."""
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info:
                found.append(f"logged: {record.getMessage()}: {record.exc_info[1]!r}")

    logger, handler = logging.getLogger("sidecar"), Handler(logging.ERROR)
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
