"""Batches: each is applied exactly once, whatever is lost on the way.

## The cursor

The truth is the cursor row of the spool (source, epoch): number, digest and response of the last
batch applied. It is locked first, and advanced in the transaction that applies the batch, so that
both happen or neither. There are four cases:

- the last number with the same digest: the batch was applied, its response is returned again;
- the last number with the digest that the batch withdraws: the other batch was applied, its
  response is returned;
- the next number: the batch is applied;
- anything else is out of step (a restored spool, a purged cursor): 409, nothing is applied, and
  the sidecar starts a new epoch.

Two replicas that receive the same batch meet at the row's lock, and the second finds it applied. A
connection that is cut loses nothing: before the commit nothing happened, after it a resend gets the
stored response, and until either is decided the resend waits at the row's lock.

## Withdrawals

A batch that is too large for a proxy has to be cut anew, and whether an earlier copy arrived is
unknown. The sidecar sends an empty batch under the same number that `withdraws` the large one. If
the large one came first, the sidecar gets its outcomes. Else the empty one is applied as any other:
the number is taken, and a late copy of the large one is out of step for ever.

## Failover

Locking the row is a commit of its own, which under synchronous replication waits for the standby as
every commit does. So a batch that Postgres shows although its wait was cancelled (by our timeout)
is not answered before the standby has it: a synchronous failover loses nothing that was answered.

An asynchronous failover may lose answered batches, their cursor with them. Nobody sends these
again: the sidecar has settled them. Its next batch is out of step, what is unsettled comes under a
new epoch (at least once), and the sidecar reports the batches between the cursor and its own.

## Two ways to apply a batch

Nearly every batch is the next step of running executions: the cursor is in step, the executions are
open, the source may write to them, the URIs are new and the sizes belong to stored rows. Such a
batch takes one statement (optimistic concurrency control): it is folded on assumed facts, and the
statement checks the assumptions and writes, or writes nothing. Everything else takes a transaction.

                                decode the entries
                                        |
                every execution cached, every fact assumable?
                    | yes                               | no
    optimistic      v                     locked        v
           +--------------------+             +-------------------+
           | fold assumed facts |             | BEGIN             |
           +--------------------+             | lock the cursor   |--> last number: stored response
                    | all applied             +-------------------+--> out of step: 409
                    |     any other outcome -->         | next number
                    v                         +-------------------+
           +--------------------+ not as      | lock the rows     |
           | write_changes:     | assumed     | read the facts    |
           |  lock, check,      |-----------> | fold them         |
           |  write, advance    |             | write_changes     |
           +--------------------+             | advance, COMMIT   |
                    | as assumed              +-------------------+
                    v                                   v
                response                             response

Both judge by the same facts (the view `cu_metadata.writers`, statuses, registries), and both write
by the same statement. The fold decides in both. The snapshot of the optimistic statement is older
than its locks: what a take-over, an end, another URI or a demotion changes meanwhile is read again
under the locks.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import asyncpg
import msgspec

from central.domain.fold import EntryOutcome, Execution, WriterStatus, fold
from central.domain.uri_registry import UriRow
from central.metrics import Metrics
from central.problems import BatchOutOfStep, Late
from central.store.bindings import BindingCache
from central.store.database import Database, Transaction
from central.store.entries import Assumptions, Entries, EntryStore
from central.store.failures import ROW_POLICIES, Policy, StatementError, policy_of
from central.store.queries import load
from central.store.refusals import Refusal, RefusalLog
from central.store.sources import check_succeeded
from central.wire.entries import (
    BatchRequest,
    BatchResponse,
    DeleteUris,
    InvalidEntry,
    Outcome,
    PutConsole,
    PutPortResult,
    SetConsoleBytes,
    SetPortResultBytes,
    decode_entries,
    op_of,
)
from kit.http.large_decoder import LARGE_BYTES, LargeDecoder
from kit.http.logs import limited_fields

logger = logging.getLogger(__name__)

MAX_EPOCHS_PER_SOURCE = 16
"""Cursors per source: the responses that they hold must not fill the disk."""

FALLBACK_POLICIES = ROW_POLICIES | {Policy.RETRY}
"""The optimistic statement wrote nothing; the locked way finds out why."""

_STORED = UriRow(None, None)

Applied = tuple[bytes, list[EntryOutcome], Mapping[int, Execution]]
"""The response; outcomes and executions afterwards, if the batch was applied by this call."""


class Batches:
    """Promise: a batch of a (source, epoch) is applied once and always gets the same response."""

    def __init__(
        self,
        database: Database,
        entry_store: EntryStore,
        cache: BindingCache,
        refusal_log: RefusalLog,
        metrics: Metrics,
        large_decoder: LargeDecoder,
    ) -> None:
        self._database = database
        self._entry_store = entry_store
        self._large_decoder = large_decoder
        self._cache = cache
        self._metrics = metrics
        self._refusal_log = refusal_log
        self._queries = load("batches")

    async def apply(
        self,
        source_id: str,
        batch: BatchRequest,
        unit_id: int | None = None,
        request_id: str | None = None,
    ) -> bytes:
        """The response, as JSON. With `unit_id`, entries for other units are refused.

        Raises `InvalidRequest`, `BatchOutOfStep` or `SourceSucceeded`: nothing is applied.
        """
        if sum(map(len, batch.entries)) <= LARGE_BYTES:
            entries = decode_entries(batch.entries)
        else:
            entries = await self._large_decoder.decode(decode_entries, batch.entries)
        applied = await self._apply_optimistically(source_id, batch, entries, unit_id)
        if applied is not None:
            self._metrics.batch("applied_at_once", len(entries))
        else:
            try:
                applied = await self._apply_locked(source_id, batch, entries, unit_id)
            except BatchOutOfStep:
                self._metrics.batch("out_of_step", len(entries))
                raise
            self._metrics.batch(_metric_label(batch, *applied[:2]), len(entries))
        response, outcomes, executions = applied
        self._cache.update(source_id, executions)
        refused = count_outcomes(self._metrics, outcomes)
        if refused:
            _log_refused(source_id, request_id, refused, executions)
        return response

    async def _apply_optimistically(
        self, source_id: str, batch: BatchRequest, entries: Entries, unit_id: int | None
    ) -> Applied | None:
        """None if the assumptions do not hold; nothing was changed."""
        executions = self._assume(source_id, entries) if batch.batch > 1 else None
        if not executions:
            return None
        folded = fold(source_id, executions, entries, batch.sent_at_ms)
        if any(outcome.kind != "applied" for outcome in folded.outcomes):
            return None
        response = _encode_response(batch.batch, folded.outcomes)
        assumptions = Assumptions(batch, response, executions.keys(), unit_id)
        try:
            (row,) = await self._database.execute_returning(
                *self._entry_store.write_statement(source_id, folded.changes, assumptions)
            )
        except StatementError as error:
            if policy_of(error) in FALLBACK_POLICIES:
                return None
            raise
        return (response, folded.outcomes, folded.after()) if row["is_applied"] else None

    def _assume(self, source_id: str, entries: Entries) -> dict[int, Execution] | None:
        """The executions as the entries need them to be; None if that cannot be assumed."""
        sized: dict[tuple[str, int], dict[str, UriRow]] = {}
        put: set[tuple[str, int, str]] = set()
        assumed: dict[int, Execution] = {}
        for entry in entries:
            execution_id = entry.execution_id
            execution = self._cache.get(source_id, execution_id)
            if execution is None:
                return None
            assumed[execution_id] = execution
            # There are three cases besides plain columns. A URI that is put is assumed to be new. A
            # size belongs to a row that this batch puts, or to one that is assumed to be stored.
            # What a deletion returns, and why an entry is invalid, cannot be assumed.
            match entry:
                case PutPortResult(global_port_id=key) | PutConsole(operator_id=key):
                    registry = "results" if isinstance(entry, PutPortResult) else "consoles"
                    if key in sized.get((registry, execution_id), ()):
                        return None  # a row is stored, and its URI is unknown
                    put.add((registry, execution_id, key))
                case SetPortResultBytes(global_port_id=key) | SetConsoleBytes(operator_id=key):
                    registry = "results" if isinstance(entry, SetPortResultBytes) else "consoles"
                    if (registry, execution_id, key) not in put:
                        sized.setdefault((registry, execution_id), {})[key] = _STORED
                case DeleteUris() | InvalidEntry():
                    return None
        for (registry, execution_id), rows in sized.items():
            with_rows = msgspec.structs.replace(assumed[execution_id], **{registry: rows})
            assumed[execution_id] = with_rows
        return assumed

    async def _apply_locked(
        self, source_id: str, batch: BatchRequest, entries: Entries, unit_id: int | None
    ) -> Applied:
        work = partial(
            self._apply_in, source_id=source_id, batch=batch, entries=entries, unit_id=unit_id
        )
        try:
            return await self._database.run(work)
        except StatementError as error:
            if policy_of(error) not in ROW_POLICIES:
                raise
            return await self._database.run(partial(work, isolate_failures=True))

    async def _apply_in(
        self,
        transaction: Transaction,
        *,
        source_id: str,
        batch: BatchRequest,
        entries: Entries,
        unit_id: int | None,
        isolate_failures: bool = False,
    ) -> Applied:
        cursor = await self._lock_cursor(transaction, source_id, batch.epoch)
        match cursor["last_batch"], cursor["digest"]:
            case batch.batch, batch.digest:
                stored = cursor["response"]
                return stored or _refuse_unknown_source(source_id, batch, entries)[0], [], {}
            case batch.batch, batch.withdraws if cursor["response"]:
                return cursor["response"], [], {}
            case batch.batch, batch.withdraws:
                pass  # a batch of an unknown source, which applied nothing
            case last_batch, _ if batch.batch != last_batch + 1:
                raise BatchOutOfStep(
                    f"batch {batch.batch} came after batch {last_batch}", last_batch=last_batch
                )
        executions: Mapping[int, Execution] = {}
        if cursor["is_known"]:
            outcomes, executions = await self._entry_store.apply(
                transaction,
                source_id,
                entries,
                batch.sent_at_ms,
                isolate_failures=isolate_failures,
                unit_id=unit_id,
            )
            stored = response = _encode_response(batch.batch, outcomes)
        else:
            response, outcomes = _refuse_unknown_source(source_id, batch, entries)
            stored = b""
        log = self._refusal_log
        record = log.record_isolated if isolate_failures else log.record_in
        await record(transaction, source_id, _refusals(outcomes))
        await transaction.execute(
            self._queries["advance_cursor"],
            source_id,
            batch.epoch,
            batch.batch,
            batch.digest,
            stored,
        )
        return response, outcomes, executions

    async def _lock_cursor(
        self, transaction: Transaction, source_id: str, epoch: str
    ) -> asyncpg.Record:
        """The cursor, locked; inserted if there is none."""
        query = self._queries["lock_cursor"]
        cursor = await transaction.fetch_row(query, source_id, epoch)
        if cursor is not None:
            return cursor
        inserted = await transaction.fetch_row(self._queries["insert_cursor"], source_id, epoch)
        if inserted is not None:
            if inserted["is_retired"]:
                await check_succeeded(transaction, source_id)
            await transaction.execute(
                self._queries["delete_old_epochs"], source_id, MAX_EPOCHS_PER_SOURCE
            )
            return inserted
        cursor = await transaction.fetch_row(query, source_id, epoch)
        assert cursor is not None  # noqa: S101 (another replica has inserted and committed it)
        return cursor


def _refuse_unknown_source(
    source_id: str, batch: BatchRequest, entries: Entries
) -> tuple[bytes, list[EntryOutcome]]:
    """Refuses all entries of a source that was never bound to anything.

    The response follows from the batch alone and is not stored: anyone can make keys, so that what
    an unknown source leaves in the database must be small.
    """
    unbound = {
        entry.execution_id: Execution(
            execution_id=entry.execution_id, writer_status=WriterStatus.NOT_BOUND
        )
        for entry in entries
    }
    outcomes = fold(source_id, unbound, entries, batch.sent_at_ms).outcomes
    return _encode_response(batch.batch, outcomes), outcomes


def _metric_label(batch: BatchRequest, response: bytes, outcomes: Sequence[EntryOutcome]) -> str:
    if outcomes:
        return "applied"
    is_withdrawn = batch.withdraws is not None and response == _encode_response(batch.batch, [])
    return "withdrawn" if is_withdrawn else "repeated"


def _refusals(outcomes: Sequence[EntryOutcome]) -> list[Refusal]:
    return [
        Refusal(o.user_id, o.entry.execution_id, op_of(o.entry), o.problem)
        for o in outcomes
        if o.problem is not None
    ]


def count_outcomes(metrics: Metrics, outcomes: Iterable[EntryOutcome]) -> list[EntryOutcome]:
    """Returns those that are refused."""
    refused = []
    for outcome in outcomes:
        is_invalid = isinstance(outcome.entry, InvalidEntry)
        metrics.entry("unknown" if is_invalid else op_of(outcome.entry), outcome.kind)
        if outcome.problem is not None:
            metrics.refusal(outcome.problem.slug)
            refused.append(outcome)
    return refused


def _log_refused(
    source_id: str,
    request_id: str | None,
    refused: Iterable[EntryOutcome],
    executions: Mapping[int, Execution],
) -> None:
    """One line for each refused entry, limited by slug. The sidecar's has the same `request_id`."""
    for outcome in refused:
        entry, problem = outcome.entry, outcome.problem
        execution = executions.get(entry.execution_id)
        assert problem is not None  # noqa: S101 (it is refused)
        logger.log(
            logging.INFO if isinstance(problem, Late) else logging.WARNING,
            "entry refused",
            extra=limited_fields(
                problem.slug,
                f"{request_id}:{entry.seq}",
                request_id=request_id,
                seq=entry.seq,
                source_id=source_id,
                user_id=outcome.user_id,
                computing_unit_id=None if execution is None else execution.computing_unit_id,
                execution_id=entry.execution_id,
                op=op_of(entry),
                problem=problem.slug,
            ),
        )


def _encode_response(batch: int, outcomes: Sequence[EntryOutcome]) -> bytes:
    return msgspec.json.encode(BatchResponse(batch, [_wire_outcome(o) for o in outcomes]))


def _wire_outcome(outcome: EntryOutcome) -> Outcome:
    problem = outcome.problem.document() if outcome.problem is not None else None
    return Outcome(outcome.entry.seq, outcome.kind, problem, outcome.removed)
