"""The delivery loop, and those who wait for it."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from sidecar.kit.logs import fields
from sidecar.kit.problem import Problem
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, RelayedProblem, SpoolUnavailable
from sidecar.spool.entry import Batch, Entry, Outcome, Urgency, WriteRecord, WriteState
from sidecar.spool.faults import NO_FAULTS, FaultPoint, Faults
from sidecar.spool.spool import Spool
from sidecar.upstream.breaker import Backoff
from sidecar.upstream.central import Central

logger = logging.getLogger(__name__)

BACKOFF_BASE_S = 0.1
BACKOFF_LIMIT_S = 5.0
"""Short enough that a returned central gets the backlog within seconds, jittered so that a
fleet does not return as one."""
PARKED_LIMIT_S = 30.0
ORDINARY_REFUSALS = frozenset({"late"})
"""Texera sends late RUNNINGs in ordinary runs (TEXERA.md section 2): never worth a warning."""


class Listener(Protocol):
    """Whoever must know how writes ended, before those who wait for them do."""

    def settled(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None: ...


class Delivery:
    """Delivers what the spool holds. `run` is the loop; `drain` empties and ends it."""

    def __init__(
        self,
        spool: Spool,
        central: Central,
        metrics: Metrics,
        listener: Listener,
        *,
        faults: Faults = NO_FAULTS,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._central = central
        self._metrics = metrics
        self._listener = listener
        self._faults = faults
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._backoff = Backoff(BACKOFF_BASE_S, BACKOFF_LIMIT_S)
        self._parked = Backoff(BACKOFF_BASE_S, PARKED_LIMIT_S)
        self._wake = asyncio.Event()
        self._hurry = False
        self._draining = False
        self._waiters: dict[int, list[asyncio.Future[WriteRecord]]] = {}
        self._emptied = asyncio.Condition()
        self.parked_because: str | None = None

    def wake(self) -> None:
        """There is something new to deliver."""
        self._wake.set()

    async def run(self) -> None:
        """Delivers until cancelled, or until `drain` finds nothing left."""
        while True:
            try:
                batch = await self._spool.in_flight() or await self._next_batch()
                if batch is None:
                    return
                await self._deliver(batch)
            except SpoolUnavailable as problem:
                logger.error("spool unavailable", extra=fields(detail=problem.detail))
                await self._pause(self._backoff.next_s())

    async def _next_batch(self) -> Batch | None:
        while True:
            self._wake.clear()
            hurry = self._draining or self._hurry
            batch = await self._spool.cut(hurry=hurry)
            if batch is not None:
                return batch
            if not self._spool.queues.entry_count:
                self._hurry = False
                async with self._emptied:
                    self._emptied.notify_all()
                if self._draining:
                    return None
            due_at = self._spool.queues.next_due_at()
            await self._pause(None if due_at is None else max(0.001, due_at - self._monotonic()))

    async def _deliver(self, batch: Batch) -> None:
        self._faults.reach(FaultPoint.BEFORE_SEND)
        try:
            outcomes = await self._central.deliver(batch, int(self._wall_clock() * 1000))
        except CentralUnavailable as problem:
            await self._unavailable(problem)
            return
        except RelayedProblem as problem:
            if problem.slug == "batch-out-of-step":
                await self._begin_epoch(batch, problem)
            else:
                await self._park(problem)
            return
        self._faults.reach(FaultPoint.AFTER_ANSWER)
        self._answered()
        await self._settle(batch, outcomes)

    async def _settle(self, batch: Batch, outcomes: list[Outcome]) -> None:
        records = await self._spool.settle(
            batch, outcomes, lambda records: self._listener.settled(batch.entries, records)
        )
        await self._end_bindings(batch, records)
        self._metrics.batches.labels("delivered").inc()
        self._metrics.batch_entries.observe(len(batch.entries))
        self._metrics.commit_latency.observe(self._age_s(batch.entries[0]))
        for record in records:
            self._metrics.writes.labels(record.op, record.state).inc()
            if record.state is WriteState.REFUSED:
                self._tell_refusal(record)
            for waiter in self._waiters.pop(record.seq, ()):
                if not waiter.done():
                    waiter.set_result(record)

    def _age_s(self, entry: Entry) -> float:
        made_at_ms: int = msgspec.json.decode(entry.document)["made_at_ms"]
        return max(0.0, self._wall_clock() - made_at_ms / 1000)

    async def _end_bindings(self, batch: Batch, records: Sequence[WriteRecord]) -> None:
        """A run that has reached its end: its tokens' grants run out."""
        committed = {record.seq for record in records if record.state is WriteState.COMMITTED}
        for entry in batch.entries:
            if entry.urgency is Urgency.TERMINAL and entry.seq in committed:
                await self._spool.end_binding(entry.execution_id)

    def _tell_refusal(self, record: WriteRecord) -> None:
        slug = str((record.problem or {}).get("type", "unknown"))
        self._metrics.refused_writes.labels(slug).inc()
        level = logging.INFO if slug in ORDINARY_REFUSALS else logging.WARNING
        logger.log(
            level,
            "write refused",
            extra=fields(
                write_id=self._spool.write_id(record.seq),
                execution_id=record.execution_id,
                op=record.op,
                problem=record.problem,
            ),
        )

    async def _unavailable(self, problem: CentralUnavailable) -> None:
        self._metrics.batches.labels("unavailable").inc()
        wait_s = self._backoff.next_s()
        if problem.asked_to_wait:
            wait_s += problem.retry_after_s
        if self._backoff.failure_count == 1:
            logger.warning("central unavailable, writes wait", extra=fields(detail=problem.detail))
        await self._pause(wait_s, wakes_early=False)

    async def _park(self, problem: Problem) -> None:
        """The whole call was refused: nobody's write is at fault, so none is dropped."""
        self._metrics.batches.labels("parked").inc()
        self._metrics.delivery_parked.set(1)
        self.parked_because = f"{problem.slug}: {problem.detail}"
        logger.error("delivery parked", extra=fields(problem=problem.document()))
        await self._pause(self._parked.next_s(), wakes_early=False)

    async def _begin_epoch(self, batch: Batch, problem: Problem) -> None:
        self._metrics.batches.labels("out-of-step").inc()
        epoch = await self._spool.begin_epoch()
        logger.error(
            "central is out of step with this spool; a new epoch begins, and what is unsettled"
            " is delivered at least once",
            extra=fields(batch=batch.number, new_epoch=epoch, detail=problem.detail),
        )

    def _answered(self) -> None:
        if self._backoff.failure_count or self.parked_because:
            logger.info("central answers again", extra=fields(failures=self._backoff.failure_count))
        self._backoff.reset()
        self._parked.reset()
        self.parked_because = None
        self._metrics.delivery_parked.set(0)

    async def _pause(self, timeout_s: float | None, *, wakes_early: bool = True) -> None:
        if not wakes_early:
            await asyncio.sleep(timeout_s or 0)
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    # Those who wait

    def watch(self, seq: int) -> "asyncio.Future[WriteRecord]":
        """How the write will end. Ask before it is sure that it has not ended yet."""
        future: asyncio.Future[WriteRecord] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(seq, []).append(future)
        return future

    async def wait_settled(self, seq: int, timeout_s: float) -> WriteRecord | None:
        """How the write ended, or None if the time was not enough."""
        future = self.watch(seq)
        try:
            known = await self._spool.find(seq)
            if known is not None and known.state is not WriteState.DURABLE:
                return known
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return None
        finally:
            self._forget(seq, future)

    def _forget(self, seq: int, future: "asyncio.Future[WriteRecord]") -> None:
        waiters = self._waiters.get(seq, [])
        if future in waiters:
            waiters.remove(future)
        if not waiters:
            self._waiters.pop(seq, None)

    async def flush(self, timeout_s: float) -> int:
        """Waits until nothing is left to deliver. Answers how many writes still wait."""
        self._hurry = True
        self.wake()
        try:
            async with asyncio.timeout(timeout_s), self._emptied:
                await self._emptied.wait_for(lambda: not self._spool.queues.entry_count)
        except TimeoutError:
            pass
        return self._spool.queues.entry_count

    def begin_drain(self) -> None:
        """From now on `run` returns once nothing is left."""
        self._draining = True
        self.wake()
