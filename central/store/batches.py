"""Batches: each applied exactly once, whatever is lost on the way.

The truth is the cursor row of the spool (source, epoch): the number, the digest and the
answer of the batch applied last. It is locked before anything else and advanced in the
transaction that applies the batch, so both happen or neither:

- the last number with the same digest was applied already: it gets the stored answer;
- the number after it is applied;
- anything else is out of step: a spool that was restored or a cursor that was purged. Nothing
  is applied, the sidecar begins a new epoch.

An ordinary batch takes one statement (`store/optimistic`), which checks and advances the cursor
as well; whatever is out of the ordinary is locked, read, judged and written step by step, here.

Two replicas that are given the same batch at the same moment meet at the row's lock, and the
second finds the work done. A connection cut at any point loses nothing: before the commit
nothing happened, after it the batch sent again is answered from the row. What may be lost is
what the database itself loses: commits that a failover drops come again under a new epoch.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import asyncpg
import msgspec

from central.domain.fold import Execution, Verdict, WriterStatus, fold
from central.metrics import Metrics
from central.problems import BatchOutOfStep
from central.store.audit import AuditLog, Refusal
from central.store.binding_cache import BindingCache
from central.store.database import Database, Transaction
from central.store.entries import DATA_ERRORS, Entries, EntryStore
from central.store.optimistic import Optimistic
from central.store.queries import load
from central.wire.entries import (
    BatchAnswer,
    BatchRequest,
    InvalidEntry,
    Outcome,
    decode_entries,
    op_of,
)

MAX_EPOCHS_PER_SOURCE = 16
"""Cursors of one source: the answers they hold must not fill the disk either."""


class Batches:
    """Promise: a batch of a (source, epoch) is applied once and answered alike every time."""

    def __init__(
        self, database: Database, rows: EntryStore, running: BindingCache, metrics: Metrics
    ) -> None:
        self._database = database
        self._rows = rows
        self._metrics = metrics
        self._running = running
        self._optimistic = Optimistic(database, running)
        self._refusals = AuditLog(database)
        self._queries = load("batches")

    async def apply(self, source_id: str, batch: BatchRequest, unit_id: int | None = None) -> bytes:
        """The answer, as JSON. With `unit_id`, entries for other units are refused.

        Raises `InvalidRequest` or `BatchOutOfStep`: nothing is applied.
        """
        entries = decode_entries(batch.entries)
        applied = await self._optimistic.apply(source_id, batch, entries, unit_id, _answer)
        if applied is not None:
            answer, verdicts = applied
            self._metrics.batch("applied_at_once", len(entries))
        else:
            try:
                answer, verdicts = await self._apply_step_by_step(
                    source_id, batch, entries, unit_id
                )
            except BatchOutOfStep:
                self._metrics.batch("out_of_step", len(entries))
                raise
            self._metrics.batch("applied" if verdicts else "repeated", len(entries))
        count_verdicts(self._metrics, verdicts)
        return answer

    async def _apply_step_by_step(
        self, source_id: str, batch: BatchRequest, entries: Entries, unit_id: int | None
    ) -> tuple[bytes, list[Verdict]]:
        """The answer, and the verdicts unless it is a stored one."""
        work = partial(
            self._apply, source_id=source_id, batch=batch, entries=entries, unit_id=unit_id
        )
        try:
            answer, verdicts, executions = await self._database.run(work)
        except DATA_ERRORS:
            answer, verdicts, executions = await self._database.run(partial(work, alone=True))
        self._running.learn(source_id, executions)
        return answer, verdicts

    async def _apply(
        self,
        transaction: Transaction,
        *,
        source_id: str,
        batch: BatchRequest,
        entries: Entries,
        unit_id: int | None,
        alone: bool = False,
    ) -> tuple[bytes, list[Verdict], Mapping[int, Execution]]:
        """The answer and, where the batch was applied just now, verdicts and executions."""
        last = await self._lock_cursor(transaction, source_id, batch.epoch)
        if (last["last_batch"], last["digest"]) == (batch.batch, batch.digest):
            return last["answer"] or _refuse_unknown_source(source_id, batch, entries)[0], [], {}
        if batch.batch != last["last_batch"] + 1:
            raise BatchOutOfStep(
                f"batch {batch.batch} came after batch {last['last_batch']}",
                last_batch=last["last_batch"],
            )
        if not last["is_known"]:
            answer, verdicts = _refuse_unknown_source(source_id, batch, entries)
            await self._keep(transaction, source_id, batch, b"", verdicts)
            return answer, verdicts, {}
        verdicts, executions = await self._rows.apply(
            transaction, source_id, entries, batch.sent_at_ms, alone=alone, unit_id=unit_id
        )
        answer = _answer(batch.batch, verdicts)
        await self._keep(transaction, source_id, batch, answer, verdicts)
        return answer, verdicts, executions

    async def _keep(
        self,
        transaction: Transaction,
        source_id: str,
        batch: BatchRequest,
        answer: bytes,
        verdicts: Sequence[Verdict],
    ) -> None:
        await self._refusals.add(transaction, source_id, _refused(verdicts))
        await transaction.execute(
            self._queries["advance_cursor"],
            source_id,
            batch.epoch,
            batch.batch,
            batch.digest,
            answer,
        )

    async def _lock_cursor(
        self, transaction: Transaction, source_id: str, epoch: str
    ) -> asyncpg.Record:
        """The cursor, locked; begun if there was none."""
        last = await transaction.fetch_row(self._queries["lock_cursor"], source_id, epoch)
        if last is not None:
            return last
        begun = await transaction.fetch_row(self._queries["begin_cursor"], source_id, epoch)
        if begun is not None:
            await transaction.execute(
                self._queries["forget_epochs"], source_id, MAX_EPOCHS_PER_SOURCE
            )
            return begun
        last = await transaction.fetch_row(self._queries["lock_cursor"], source_id, epoch)
        assert last is not None  # noqa: S101 (another replica has begun and committed it)
        return last


def _refuse_unknown_source(
    source_id: str, batch: BatchRequest, entries: Entries
) -> tuple[bytes, list[Verdict]]:
    """For a source that was never bound to anything: nothing of its is applied.

    Its answer follows from the batch alone, so that it need not be stored: keys cost nothing
    to make, and what they leave in the database has to be small.
    """
    unbound = {
        entry.execution_id: Execution(
            execution_id=entry.execution_id, standing=WriterStatus.NOT_BOUND
        )
        for entry in entries
    }
    verdicts = fold(source_id, unbound, entries, batch.sent_at_ms).verdicts
    return _answer(batch.batch, verdicts), verdicts


def _refused(verdicts: Sequence[Verdict]) -> list[Refusal]:
    return [
        Refusal(v.user_id, v.entry.execution_id, op_of(v.entry), v.problem)
        for v in verdicts
        if v.problem is not None
    ]


def count_verdicts(metrics: Metrics, verdicts: Iterable[Verdict]) -> None:
    for verdict in verdicts:
        unknown = isinstance(verdict.entry, InvalidEntry)
        metrics.entry("unknown" if unknown else op_of(verdict.entry), verdict.outcome)
        if verdict.problem is not None:
            metrics.refusal(verdict.problem.slug)


def _answer(batch: int, verdicts: Sequence[Verdict]) -> bytes:
    return msgspec.json.encode(BatchAnswer(batch, [_outcome(verdict) for verdict in verdicts]))


def _outcome(verdict: Verdict) -> Outcome:
    problem = verdict.problem.document() if verdict.problem is not None else None
    return Outcome(verdict.entry.seq, verdict.outcome, problem, verdict.removed)
