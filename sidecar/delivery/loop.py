"""The delivery loop."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec

from kit.http.logs import fields
from kit.http.problems import Problem
from sidecar.delivery.pacing import BatchPacer
from sidecar.delivery.waiters import SettlementWaiters
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, SpoolUnavailable, UpstreamProblem
from sidecar.spool.batching import BATCH_MAX_ENTRIES
from sidecar.spool.entry import Batch, Entry, Outcome, WriteRecord, WriteState
from sidecar.spool.fault_injection import NO_FAULTS, FaultInjector, FaultPoint
from sidecar.spool.spool import Spool
from sidecar.upstream.resilience import Backoff, SlowStart

logger = logging.getLogger(__name__)

FIRST_BATCH_ENTRIES = 50
"""How many a batch may have while central is away; each answer doubles it."""
BACKOFF_BASE_S = 0.1
BACKOFF_LIMIT_S = 5.0
"""Short enough that a returned central gets the backlog within seconds, jittered so that a
fleet does not return as one."""
PARKED_LIMIT_S = 30.0
MAX_RETRY_AFTER_S = 60.0
"""The longest `Retry-After` that is obeyed: whoever sends a day must not stop a run's end."""
EXPECTED_REFUSALS = frozenset({"late"})
"""Texera sends late RUNNINGs in ordinary runs (TEXERA.md section 2): never worth a warning."""


class BatchSender(Protocol):
    """The way to central. Raises `CentralUnavailable` and `UpstreamProblem`, nothing else."""

    async def deliver(self, batch: Batch, sent_at_ms: int) -> list[Outcome]: ...


class Listener(Protocol):
    """Whoever must know how writes ended, before those who wait for them do."""

    def on_settled(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None: ...


class Delivery:
    """Delivers what the spool holds. `run` is the loop; `drain` empties and ends it."""

    def __init__(
        self,
        spool: Spool,
        central: BatchSender,
        metrics: Metrics,
        listener: Listener,
        *,
        faults: FaultInjector = NO_FAULTS,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._spool = spool
        self._central = central
        self._metrics = metrics
        self._listener = listener
        self._faults = faults
        self._monotonic = monotonic
        self._backoff = Backoff(BACKOFF_BASE_S, BACKOFF_LIMIT_S, uniform=uniform)
        self._parked = Backoff(BACKOFF_BASE_S, PARKED_LIMIT_S, uniform=uniform)
        self._slow_start = SlowStart(FIRST_BATCH_ENTRIES, BATCH_MAX_ENTRIES)
        self._wake = asyncio.Event()
        self._waiting = SettlementWaiters(spool, self.wake)
        self._unconfirmed_batch: Batch | None = None
        self._draining = asyncio.Event()
        self._rest = BatchPacer(monotonic, self._has_urgent_work)
        self.parked_because: str | None = None
        spool.on_append.append(lambda execution_id: self.wake())
        spool.on_corrupted = self._set_aside
        spool.on_reopened = self._on_spool_reopened

    def wake(self) -> None:
        """There is something new to deliver."""
        self._wake.set()
        self._rest.look()

    def _has_urgent_work(self) -> bool:
        """Whether somebody waits for what is not delivered yet, or a run has ended."""
        someone_waits = self._draining.is_set() or bool(self._waiting)
        return someone_waits or self._spool.queues.has_terminal

    def _on_spool_reopened(self) -> None:
        """The spool was opened anew: more may wait than was known, or less."""
        self.wake()
        self._waiting.recheck_all()

    async def run(self) -> None:
        """Delivers until cancelled, or until `drain` finds nothing left."""
        untold, self._spool.unreported = self._spool.unreported, []
        self._set_aside(untold)
        while True:
            try:
                await self._recover_interrupted_settle()
                batch = await self._next_batch()
                if batch is None:
                    return
                await self._deliver(batch)
            except SpoolUnavailable as problem:
                logger.error("spool unavailable", extra=fields(detail=problem.detail))
                await self._back_off(self._backoff.next_s())

    async def _next_batch(self) -> Batch | None:
        await self._rest.over()
        while True:
            self._wake.clear()
            hurry = self._draining.is_set() or self._waiting.is_flushing
            batch = await self._spool.in_flight() or await self._spool.cut(
                flush=hurry, max_entries=self._slow_start.limit
            )
            if batch is not None:
                return batch
            if self._draining.is_set() and not self._spool.queues.entry_count:
                return None
            due_at = self._spool.queues.next_due_at()
            if due_at is None:
                batch = await self._cut_with_next_append()
                if batch is not None:
                    return batch
            else:
                await self._wait_for_work(max(0.001, due_at - self._monotonic()))

    async def _cut_with_next_append(self) -> Batch | None:
        """The batch that the next write became; None if there is something to do without one."""
        cutting = asyncio.ensure_future(self._spool.cut_with_next_append())
        waking = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait({cutting, waking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
            if not cutting.done():
                cutting.cancel()
        return cutting.result() if cutting.done() else None

    async def _deliver(self, batch: Batch) -> None:
        self._rest.begin()
        self._faults.hit(FaultPoint.BEFORE_SEND)
        try:
            outcomes = await self._central.deliver(batch, self._spool.now_ms())
        except CentralUnavailable as problem:
            if problem.from_unknown_server:
                await self._park(problem)
            else:
                await self._unavailable(problem)
            return
        except UpstreamProblem as problem:
            if problem.slug == "batch-out-of-step":
                await self._begin_epoch(batch, problem)
            elif problem.status == 429:
                await self._on_rate_limited(problem)
            else:
                await self._park(problem)
            return
        self._faults.hit(FaultPoint.AFTER_RESPONSE)
        self._answered()
        await self._settle(batch, outcomes)

    async def _settle(self, batch: Batch, outcomes: list[Outcome]) -> None:
        self._unconfirmed_batch = batch  # should the spool fail now, it may be settled all the same
        records = await self._spool.settle(
            batch, outcomes, lambda records: self._listener.on_settled(batch.entries, records)
        )
        self._unconfirmed_batch = None
        self._metrics.batches.labels("delivered").inc()
        self._metrics.batch_entries.observe(len(batch.entries))
        self._metrics.commit_latency.observe(self._age_s(batch.entries[0]))
        self._tell(records)

    async def _recover_interrupted_settle(self) -> None:
        """How the writes ended whose settling the spool has kept without saying so."""
        batch = self._unconfirmed_batch
        if batch is not None and await self._spool.in_flight() != batch:
            found = [await self._spool.find(entry.seq) for entry in batch.entries]
            ended = [write for write in found if write and write.state is not WriteState.DURABLE]
            self._listener.on_settled(batch.entries, ended)
            self._tell(ended)
        self._unconfirmed_batch = None  # or it is sent again, and answered as before

    def _set_aside(self, records: Sequence[WriteRecord]) -> None:
        """The spool found these damaged: they ended here, whatever central has of them."""
        self._listener.on_settled((), records)
        self._tell(records)

    def _tell(self, records: Sequence[WriteRecord]) -> None:
        """Those who wait, the metrics and the log: so it ended."""
        for record in records:
            self._metrics.writes.labels(record.op, record.state).inc()
            if record.state is WriteState.REFUSED:
                self._tell_refusal(record)
        self._waiting.tell(records)

    def _age_s(self, entry: Entry) -> float:
        made_at_ms: int = msgspec.json.decode(entry.document)["made_at_ms"]
        return max(0, self._spool.now_ms() - made_at_ms) / 1000

    def _tell_refusal(self, record: WriteRecord) -> None:
        slug = str((record.problem or {}).get("type", "unknown"))
        self._metrics.refused_writes.labels(slug).inc()
        level = logging.INFO if slug in EXPECTED_REFUSALS else logging.WARNING
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
        self._slow_start.failed()
        wait_s = self._backoff.next_s()
        if problem.has_retry_after:
            wait_s += min(problem.retry_after_s, MAX_RETRY_AFTER_S)
        if self._backoff.failure_count == 1:
            logger.warning("central unavailable, writes wait", extra=fields(detail=problem.detail))
        await self._back_off(wait_s)

    async def _on_rate_limited(self, problem: UpstreamProblem) -> None:
        """Central is well and asks this source for less."""
        self._metrics.batches.labels("rate-limited").inc()
        asked_s = min(problem.retry_after_s, MAX_RETRY_AFTER_S)
        await self._back_off(self._backoff.next_s() + asked_s)

    async def _park(self, problem: Problem) -> None:
        """The whole call was refused: nobody's write is at fault, so none is dropped."""
        self._metrics.batches.labels("parked").inc()
        self._metrics.delivery_parked.set(1)
        self.parked_because = f"{problem.slug}: {problem.detail}"
        logger.error("delivery parked", extra=fields(problem=problem.document()))
        await self._back_off(self._parked.next_s())

    async def _begin_epoch(self, batch: Batch, problem: Problem) -> None:
        self._metrics.batches.labels("out-of-step").inc()
        epoch = await self._spool.start_epoch()
        logger.error(
            "central is out of step with this spool; a new epoch begins, and what is unsettled"
            " is delivered at least once",
            extra=fields(batch=batch.number, new_epoch=epoch, detail=problem.detail),
        )
        # A new epoch is in step by its nature. Should central not think so, this is no busy loop.
        await self._back_off(self._parked.next_s())

    def _answered(self) -> None:
        if self._backoff.failure_count or self.parked_because:
            logger.info("central answers again", extra=fields(failures=self._backoff.failure_count))
        self._backoff.reset()
        self._slow_start.succeeded()
        self._parked.reset()
        self.parked_because = None
        self._metrics.delivery_parked.set(0)

    async def _wait_for_work(self, timeout_s: float) -> None:
        """Until something new comes, or something that waits is due."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()

    async def _back_off(self, wait_s: float) -> None:
        """Leaves central alone, whatever comes. A drain that begins makes one try at once."""
        if self._draining.is_set():
            await asyncio.sleep(wait_s)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._draining.wait()

    # Those who wait

    async def wait_settled(self, seq: int, timeout_s: float) -> WriteRecord | None:
        """How the write ended, or None if the time was not enough."""
        return await self._waiting.until_ended(seq, timeout_s)

    async def flush(self, timeout_s: float) -> int:
        """Waits until all that is durable now is settled. Answers how many writes still wait.

        Raises `SpoolUnavailable`.
        """
        return await self._waiting.wait_flushed(timeout_s)

    def begin_drain(self) -> None:
        """From now on `run` returns once nothing is left."""
        self._draining.set()
        self.wake()
