"""The delivery loop. Its states and promises are in the package's essay."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum, auto
from http import HTTPStatus
from typing import Protocol

from kit.http.failed_calls import MAX_DETAIL_LENGTH
from kit.http.logs import fields, limited_fields
from sidecar.delivery.pacing import BatchPacer
from sidecar.delivery.recent_writes import RecentWrites
from sidecar.delivery.waiters import SettlementWaiters
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, SpoolUnavailable, UpstreamProblem
from sidecar.spool.batches import BATCH_MAX_BYTES, BATCH_MAX_ENTRIES, BatchDamaged
from sidecar.spool.entry import Batch, Entry, Outcome, WriteRecord, WriteState
from sidecar.spool.fault_injection import NO_FAULTS, FaultInjector, FaultPoint
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import request_id_of
from sidecar.upstream.resilience import Backoff, BatchByteLimit, SlowStart

logger = logging.getLogger(__name__)

FIRST_BATCH_ENTRIES = 50
"""Of a batch cut while central is unreachable; each success doubles it."""
BACKOFF_BASE_S = 0.1
MAX_RETRY_AFTER_S = 60.0
"""A longer `Retry-After` is cut to this: a server that sends a day must not delay a run's end."""
MAX_SLOW_SENDS = 3
"""In a row, of one batch, until it counts as too large for the way to central."""
ALWAYS_FAST_BYTES = 64 * 1024
"""A batch of this size is not made smaller for being slow: central itself is."""
EXPECTED_REFUSALS = frozenset({"late"})
"""Texera sends a RUNNING after the end in ordinary runs: no warning."""


class Cause(StrEnum):
    """Why nothing is sent for a while. Each has a backoff of its own."""

    OUTAGE = auto()
    """Central cannot be reached, or says 502, 503 or 504 itself."""
    RATE_LIMIT = auto()
    """Central is well, and this source sends too much (429)."""
    SPOOL = auto()
    """The spool's file cannot be read or written."""
    PARKED = auto()
    """Something refuses the whole call, or another epoch began."""


BACKOFF_LIMITS_S = {Cause.OUTAGE: 5.0, Cause.RATE_LIMIT: 5.0, Cause.SPOOL: 5.0, Cause.PARKED: 30.0}
"""Short enough that a returned central gets the backlog within seconds, jittered so that a
fleet does not return as one."""


class BatchSender(Protocol):
    """Sends a batch once, or withdraws it, and then has no outcomes unless it was applied.

    Raises `CentralUnavailable` and `UpstreamProblem`, nothing else.
    """

    async def deliver(self, batch: Batch, sent_at_ms: int) -> list[Outcome]: ...


class SettlementListener(Protocol):
    """Is notified of settled writes before those who wait for them."""

    def on_settled(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None: ...

    def invalidate_all(self) -> None:
        """`on_settled` failed: discards all that was derived from settled writes."""


class Delivery:
    """Delivers what the spool holds. `run` is the loop; `begin_drain` lets it end when empty."""

    def __init__(
        self,
        spool: Spool,
        central: BatchSender,
        metrics: Metrics,
        listener: SettlementListener,
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
        self._backoffs = {
            cause: Backoff(BACKOFF_BASE_S, limit_s, uniform=uniform)
            for cause, limit_s in BACKOFF_LIMITS_S.items()
        }
        self._slow_start = SlowStart(FIRST_BATCH_ENTRIES, BATCH_MAX_ENTRIES)
        self._byte_limit = BatchByteLimit(BATCH_MAX_BYTES)
        self._pacer = BatchPacer(monotonic, self._has_urgent_work)
        self._waiters = SettlementWaiters(spool, self.wake)
        self._work = asyncio.Event()
        self._draining = asyncio.Event()
        self._unconfirmed_batch: Batch | None = None
        self._slow_sends = 0
        self._has_run = False
        self._is_listener_failing = False
        self.parked_because: str | None = None
        self.recent = RecentWrites()
        spool.on_append.append(lambda execution_id: self.wake())
        spool.on_ended = self._on_ended
        spool.on_reopened = self._on_spool_reopened

    # Interface

    async def run(self) -> None:
        """Delivers until cancelled, or after `begin_drain` until the spool is empty."""
        ended, self._spool.unreported = self._spool.unreported, []
        self._on_ended(ended)
        is_index_suspect, self._has_run = self._has_run, True  # an unforeseen error ended a run
        is_batch_damaged = False
        while True:
            try:
                if is_index_suspect:
                    await self._spool.reload_index()
                    is_index_suspect = False
                if is_batch_damaged:
                    await self._spool.abandon_batch()
                    is_batch_damaged = False
                await self._recover_interrupted_settle()
                batch = await self._next_batch()
                if batch is None:
                    return
                await self._send(batch)
            except BatchDamaged:
                is_batch_damaged = True
            except SpoolUnavailable as problem:
                logger.error("spool unavailable", extra=fields(detail=problem.detail))
                await self._back_off(Cause.SPOOL)

    def begin_drain(self) -> None:
        self._draining.set()
        self.wake()

    def wake(self) -> None:
        """There is new work, or somebody new waits for it."""
        self._work.set()
        self._pacer.check_urgent()

    async def wait_settled(self, seq: int, timeout_s: float) -> WriteRecord | None:
        """The settled write's record, or None after the timeout."""
        return await self._waiters.wait_settled(seq, timeout_s)

    async def flush(self, timeout_s: float) -> int:
        """Waits until all that is durable now is settled. Returns the number of writes left.

        Raises `SpoolUnavailable`.
        """
        return await self._waiters.wait_flushed(timeout_s)

    # Idle

    async def _next_batch(self) -> Batch | None:
        """The batch to send. None once a drain is complete."""
        await self._pacer.wait_until_allowed()
        while True:
            self._work.clear()
            flush = self._draining.is_set() or self._waiters.is_flushing
            batch = await self._spool.in_flight() or await self._spool.cut(
                flush=flush,
                max_entries=self._slow_start.limit,
                max_bytes=self._byte_limit.limit,
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
                await _wait(self._work, max(0.001, due_at - self._monotonic()))

    async def _cut_with_next_append(self) -> Batch | None:
        """The batch that the next write became; None if there is work without one."""
        cutting = asyncio.ensure_future(self._spool.cut_with_next_append(self._byte_limit.limit))
        waking = asyncio.ensure_future(self._work.wait())
        try:
            await asyncio.wait({cutting, waking}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waking.cancel()
            if not cutting.done():
                cutting.cancel()
        return cutting.result() if cutting.done() else None

    def _has_urgent_work(self) -> bool:
        someone_waits = self._draining.is_set() or bool(self._waiters)
        return someone_waits or self._spool.queues.terminal_count > 0

    # Sending

    async def _send(self, batch: Batch) -> None:
        self._pacer.batch_started()
        self._faults.hit(FaultPoint.BEFORE_SEND)
        sent_at_ms = self._spool.now_ms()
        try:
            outcomes = await self._central.deliver(batch, sent_at_ms)
        except (CentralUnavailable, UpstreamProblem) as problem:
            await self._on_failure(batch, problem)
            return
        self._faults.hit(FaultPoint.AFTER_RESPONSE)
        self._on_success(was_delivered=bool(outcomes))
        await self._settle(batch, outcomes, sent_at_ms)

    def _on_success(self, *, was_delivered: bool) -> None:
        if failures := {
            c.value: b.failure_count for c, b in self._backoffs.items() if b.failure_count
        }:
            logger.info("delivery resumed", extra=fields(failures=failures))
        for backoff in self._backoffs.values():
            backoff.reset()
        self._slow_sends = 0
        if was_delivered:  # the empty batch of a withdrawal says nothing of sizes
            self._slow_start.record_success()
            self._byte_limit.record_success()
        self.parked_because = None
        self._metrics.delivery_parked.set(0)

    async def _settle(self, batch: Batch, outcomes: list[Outcome], sent_at_ms: int) -> None:
        self._unconfirmed_batch = batch  # a spool that fails now may have settled it all the same
        records = await self._spool.settle(
            batch, outcomes, lambda records: self._tell_listener(batch.entries, records)
        )
        self._unconfirmed_batch = None
        if outcomes:
            self._metrics.batches.labels("delivered").inc()
            self._metrics.batch_entries.observe(len(batch.entries))
            age_ms = self._spool.now_ms() - batch.entries[0].made_at_ms
            self._metrics.commit_latency.observe(max(0, age_ms) / 1000)
        else:
            self._metrics.batches.labels("withdrawn").inc()
        self._notify_settled(records, batch)
        self.recent.add(batch.entries, records, sent_at_ms, self._spool.now_ms())

    # Failures

    async def _on_failure(
        self, batch: Batch, problem: CentralUnavailable | UpstreamProblem
    ) -> None:
        """There are five cases: another epoch, too large, an outage, too many calls, all else."""
        if problem.slug == "batch-out-of-step":
            await self._begin_epoch(batch, problem)
        elif self._is_too_large(batch, problem):
            self._metrics.batches.labels("too-large").inc()
            self._slow_sends = 0
            self._byte_limit.record_too_large(_size_bytes(batch))
            logger.warning(
                "batch too large for the way to central: it is withdrawn and cut anew",
                extra=fields(batch=batch.number, max_bytes=self._byte_limit.limit),
            )
            await self._spool.withdraw()
        elif isinstance(problem, CentralUnavailable) and not problem.from_unknown_server:
            self._metrics.batches.labels("unavailable").inc()
            self._slow_start.record_failure()
            if self._backoffs[Cause.OUTAGE].failure_count == 0:
                logger.warning(
                    "central unavailable",
                    extra=fields(request_id=request_id_of(batch), detail=problem.detail),
                )
            retry_after_s = problem.retry_after_s if problem.has_retry_after else 0.0
            await self._back_off(Cause.OUTAGE, retry_after_s)
        elif problem.status == HTTPStatus.TOO_MANY_REQUESTS:
            self._metrics.batches.labels("rate-limited").inc()
            if self._backoffs[Cause.RATE_LIMIT].failure_count == 0:
                logger.warning("delivery rate-limited", extra=fields(detail=problem.detail))
            await self._back_off(Cause.RATE_LIMIT, problem.retry_after_s)
        else:
            self._metrics.batches.labels("parked").inc()
            self._metrics.delivery_parked.set(1)
            self.parked_because = f"{problem.slug}: {problem.detail}"
            logger.error(
                "delivery parked",
                extra=fields(request_id=request_id_of(batch), problem=problem.document()),
            )
            await self._back_off(Cause.PARKED)

    def _is_too_large(self, batch: Batch, problem: CentralUnavailable | UpstreamProblem) -> bool:
        """Whether the batch is to be cut anew: its size was refused, or it did not get through in
        time again and again, as on a thin link."""
        if len(batch.entries) == 1 or batch.is_withdrawn:
            return False
        status: int | None = problem.status
        timed_out = False
        if isinstance(problem, CentralUnavailable):
            status, timed_out = problem.response_status, problem.timed_out
        if timed_out or status == HTTPStatus.REQUEST_TIMEOUT:
            self._slow_sends += 1
            is_large = _size_bytes(batch) > ALWAYS_FAST_BYTES
            return is_large and self._slow_sends >= MAX_SLOW_SENDS
        self._slow_sends = 0
        return status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE

    async def _begin_epoch(
        self, batch: Batch, problem: UpstreamProblem | CentralUnavailable
    ) -> None:
        self._metrics.batches.labels("out-of-step").inc()
        epoch = await self._spool.start_epoch()
        logger.error(
            "batch out of step: a new epoch begins, unsettled writes are delivered at least once",
            extra=fields(batch=batch.number, new_epoch=epoch, detail=problem.detail),
        )
        self._report_forgotten(batch, problem.document().get("last_batch"))
        # A new epoch is always in step; the wait bounds the loop should central disagree.
        await self._back_off(Cause.PARKED)

    def _report_forgotten(self, batch: Batch, last_batch: object) -> None:
        """Central's cursor is behind the batches of this epoch that it had answered."""
        if not isinstance(last_batch, int) or not 0 <= last_batch < batch.number - 1:
            return
        self._metrics.forgotten_batches.inc(batch.number - 1 - last_batch)
        logger.error(
            "central no longer has batches that it had answered: their writes may be lost",
            extra=fields(
                epoch=batch.epoch, first_batch=last_batch + 1, last_batch=batch.number - 1
            ),
        )

    async def _back_off(self, cause: Cause, retry_after_s: float = 0.0) -> None:
        """Sends nothing meanwhile, whatever arrives. A drain that begins ends the wait once."""
        wait_s = self._backoffs[cause].next_s() + min(retry_after_s, MAX_RETRY_AFTER_S)
        if self._draining.is_set():
            await asyncio.sleep(wait_s)
        else:
            await _wait(self._draining, wait_s)

    # Settlement

    def _tell_listener(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None:
        """A listener that fails does not stop delivery: the spool is the truth, and what the
        listener derived from it starts over."""
        try:
            self._listener.on_settled(entries, records)
            self._is_listener_failing = False
        except Exception:
            self._metrics.listener_failures.inc()
            if not self._is_listener_failing:
                logger.exception("settlement listener failed; what is cached is discarded")
            self._is_listener_failing = True
            self._listener.invalidate_all()

    async def _recover_interrupted_settle(self) -> None:
        """Re-reads outcomes after a settle whose result was lost."""
        batch = self._unconfirmed_batch
        if batch is None:
            return
        settled: list[WriteRecord] = []
        if await self._spool.in_flight() != batch:  # else it is sent again and answered as before
            found = [await self._spool.find(entry.seq) for entry in batch.entries]
            settled = [write for write in found if write and write.state is not WriteState.DURABLE]
            self._tell_listener(batch.entries, settled)
        self._spool.settle_recovered()
        self._unconfirmed_batch = None
        self._notify_settled(settled, batch)

    def _on_ended(self, records: Sequence[WriteRecord]) -> None:
        """The spool ended these by itself: they are refused, whatever central has of them."""
        self._tell_listener((), records)
        self._notify_settled(records)

    def _on_spool_reopened(self) -> None:
        """More writes may be durable than were known, or fewer."""
        self.wake()
        self._waiters.recheck_all()

    def _notify_settled(self, records: Sequence[WriteRecord], batch: Batch | None = None) -> None:
        for record in records:
            self._metrics.writes.labels(record.op, record.state).inc()
            if record.state is WriteState.REFUSED:
                self._report_refusal(record, batch)
        self._waiters.notify(records)

    def _report_refusal(self, record: WriteRecord, batch: Batch | None) -> None:
        """One line, limited by slug. The `request_id` is the batch's, as in central's log."""
        problem = record.problem or {}
        slug = str(problem.get("type", "unknown"))
        self._metrics.refused_writes.labels(slug).inc()
        write_id = self._spool.write_id(record.seq)
        binding = self._spool.bindings.binding(record.execution_id)
        logger.log(
            logging.INFO if slug in EXPECTED_REFUSALS else logging.WARNING,
            "write refused",
            extra=limited_fields(
                slug,
                write_id,
                write_id=write_id,
                request_id=None if batch is None else request_id_of(batch),
                user_id=record.user_id,
                computing_unit_id=None if binding is None else binding.computing_unit_id,
                execution_id=record.execution_id,
                op=record.op,
                problem=slug,
                detail=str(problem.get("detail", ""))[:MAX_DETAIL_LENGTH],
            ),
        )


def _size_bytes(batch: Batch) -> int:
    return sum(len(entry.payload) for entry in batch.entries)


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
