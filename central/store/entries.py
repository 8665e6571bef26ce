"""Entries: the rows that they change, locked, read, folded and written.

## Order

1. Locks, in id order, on the executions that the source may write to. Rows locked by someone else
   are skipped, and their entries deferred: a batch waits for nobody.
2. Facts, in one statement and so in one snapshot, which has what others committed before the locks
   were granted: bindings, statuses, who ended an execution, stored URIs. A revocation that commits
   later does not stop this batch.
3. The fold (`central/domain/fold.py`), which decides.
4. Writes, in one statement (`write_changes`).

## Rows that the database fails

A size that an INT column cannot hold, a constraint or a trigger that this release does not know of
aborts the transaction. The caller runs it again with `isolate_failures`: the entries are bisected
until those at fault are alone (`store/failing_rows.py`). The result is the same as of one fold,
because folding is associative; an ordinary batch pays for no savepoint.

An entry that fails alone is refused at once if its value or a constraint is at fault. For any other
reason (`store/failures.py`) it is deferred with all later entries of its execution, and refused as
`unstorable` when the execution has failed for `CENTRAL_UNSTORABLE_AFTER_S`. The first failure of
each source and execution is kept in this process only: several replicas, or one that restarts,
take longer. An entry of the execution that is written starts the time again. Single-call writes
have a time of their own: they pass the queue, so that their success says nothing about its head.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any, TypeAlias

import asyncpg
import msgspec
from cachetools import LRUCache
from msgspec import UNSET

from central.domain.fold import (
    Changes,
    EntryOutcome,
    Execution,
    ExecutionChange,
    WriterStatus,
    fold,
)
from central.domain.uri_registry import RegistryChange, UriRow
from central.metrics import Metrics
from central.store.database import Transaction
from central.store.failing_rows import FailingRows, bisect
from central.store.failures import Policy, StatementError, policy_of, problem_of
from central.store.queries import Query, load
from central.wire.entries import (
    AnyEntry,
    BatchRequest,
    DeleteUris,
    InvalidEntry,
    PutConsole,
    PutPortResult,
    SetConsoleBytes,
    SetPortResultBytes,
)
from kit.texera.fields import INT32_MAX

MAX_TRACKED_FAILURES = 20_000

Entries = Sequence[AnyEntry | InvalidEntry]

_registry = msgspec.json.Decoder(dict[str, UriRow])

# Parameters of `write_changes`.
_EXECUTION_COLUMNS = [(name, attrgetter(name)) for name in ExecutionChange.__struct_fields__]
_RESULT_ARRAYS = ("result_execution_id", "result_port_id", "result_uri", "result_bytes")
_CONSOLE_ARRAYS = ("console_execution_id", "console_operator_id", "console_uri", "console_bytes")


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What `write_changes` checks where the rows were not locked and read before."""

    batch: BatchRequest
    response: bytes
    execution_ids: Collection[int]
    unit_id: int | None


DEFAULT_UNSTORABLE_AFTER_S = 3600.0


FailureKey: TypeAlias = tuple[str, int, bool]
"""Source, execution, and whether the entry came in a batch."""


class EntryStore:
    """Applies entries inside a transaction that the caller opens and commits."""

    def __init__(
        self,
        metrics: Metrics,
        unstorable_after_s: float = DEFAULT_UNSTORABLE_AFTER_S,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queries = load("entries")
        self._failing_rows = FailingRows(metrics)
        self._unstorable_after_s = unstorable_after_s
        self._clock = clock
        self._first_failures: LRUCache[FailureKey, float] = LRUCache(MAX_TRACKED_FAILURES)

    async def apply(
        self,
        transaction: Transaction,
        source_id: str,
        entries: Entries,
        sent_at_ms: int,
        *,
        isolate_failures: bool = False,
        wait_for_lock: bool = False,
        unit_id: int | None = None,
    ) -> tuple[list[EntryOutcome], Mapping[int, Execution]]:
        """The outcome of each entry, in order, and the executions after them.

        Raises a `StatementError` with one of `ROW_POLICIES` if a row fails. The transaction is lost
        then; run it again with `isolate_failures`. With `wait_for_lock` the row of a single
        execution is waited for instead of deferred. With `unit_id` only its executions are written
        to.
        """
        executions = await self._lock(transaction, source_id, entries, unit_id, wait_for_lock)
        if isolate_failures:
            if not wait_for_lock:
                await transaction.check_constraints_at_once()
            return await self._apply_isolated(
                transaction,
                source_id,
                executions,
                entries,
                sent_at_ms,
                is_queued=not wait_for_lock,
            )
        folded = fold(source_id, executions, entries, sent_at_ms)
        await self._write(transaction, source_id, folded.changes, is_queued=not wait_for_lock)
        return folded.outcomes, folded.after()

    async def _lock(
        self,
        transaction: Transaction,
        source_id: str,
        entries: Entries,
        unit_id: int | None,
        wait_for_lock: bool,
    ) -> dict[int, Execution]:
        """The executions and their facts, read after the locks; deleted ones are left out."""
        # Invalid entries too: they keep their place behind a locked row. Their ids are unchecked.
        ids = sorted({e.execution_id for e in entries if 0 < e.execution_id <= INT32_MAX})
        if not ids:
            return {}
        if wait_for_lock:
            assert len(ids) == 1  # noqa: S101 (waiting for several rows could deadlock)
            rows = await transaction.fetch(
                self._queries["lock_execution"], source_id, ids[0], unit_id
            )
        else:
            rows = await transaction.fetch(
                self._queries["lock_executions"], source_id, ids, unit_id
            )
        locked = {row["execution_id"] for row in rows}
        results, consoles = _registries_of(entries)
        facts = await transaction.fetch(
            self._queries["read_facts"],
            source_id,
            ids,
            [i in locked and i in results for i in ids],
            [i in locked and i in consoles for i in ids],
        )
        return {
            row["execution_id"]: _execution(row, row["execution_id"] in locked, unit_id)
            for row in facts
            if row["user_id"] is None or row["status"] is not None
        }

    async def _apply_isolated(
        self,
        transaction: Transaction,
        source_id: str,
        executions: Mapping[int, Execution],
        entries: Entries,
        sent_at_ms: int,
        *,
        is_queued: bool,
    ) -> tuple[list[EntryOutcome], Mapping[int, Execution]]:
        async def apply(part: Entries) -> list[EntryOutcome]:
            nonlocal executions
            folded = fold(source_id, executions, part, sent_at_ms)
            await self._write(transaction, source_id, folded.changes, is_queued=is_queued)
            executions = folded.after()
            return folded.outcomes

        async def isolate(
            entry: AnyEntry | InvalidEntry, error: StatementError
        ) -> list[EntryOutcome]:
            """A deferred entry defers all that follow it."""
            nonlocal executions
            (outcome,) = fold(source_id, executions, [entry], sent_at_ms).outcomes
            key = (source_id, entry.execution_id, is_queued)
            outcome = self._outcome_of_failure(key, outcome, error)
            if outcome.kind == "deferred":
                blocked = msgspec.structs.replace(
                    executions[entry.execution_id], writer_status=WriterStatus.BLOCKED
                )
                executions = {**executions, entry.execution_id: blocked}
            return [outcome]

        outcomes = await bisect(transaction, entries, apply, isolate)
        return list(chain.from_iterable(outcomes)), executions

    def _outcome_of_failure(
        self, key: FailureKey, outcome: EntryOutcome, error: StatementError
    ) -> EntryOutcome:
        """Deferred or refused, of an entry that fails alone."""
        if policy_of(error) is Policy.ISOLATE:
            execution_id = outcome.entry.execution_id
            self._failing_rows.report("entry not written", error, execution_id=execution_id)
            now = self._clock()
            if now - self._first_failures.setdefault(key, now) < self._unstorable_after_s:
                return msgspec.structs.replace(outcome, kind="deferred", removed=None)
        return msgspec.structs.replace(
            outcome, kind="refused", problem=problem_of(error), removed=None
        )

    async def _write(
        self, transaction: Transaction, source_id: str, changes: Changes, *, is_queued: bool
    ) -> None:
        deleted_results = [key for key, change in changes.results.items() if change is None]
        deleted_consoles = [key for key, change in changes.consoles.items() if change is None]
        if deleted_results or deleted_consoles:
            await transaction.execute(
                self._queries["delete_registry_rows"],
                [execution_id for execution_id, _ in deleted_results],
                [key for _, key in deleted_results],
                [execution_id for execution_id, _ in deleted_consoles],
                [key for _, key in deleted_consoles],
            )
        if (
            changes.executions
            or any(changes.results.values())
            or any(changes.consoles.values())
            or changes.operator_costs
        ):
            await transaction.execute(*self.write_statement(source_id, changes))
        if self._first_failures:
            written = {i for i, _ in (*changes.results, *changes.consoles)}
            for execution_id in written | {*changes.executions, *changes.operator_costs}:
                self._first_failures.pop((source_id, execution_id, is_queued), None)

    def write_statement(
        self, source_id: str, changes: Changes, assumptions: Assumptions | None = None
    ) -> tuple[Query, *tuple[Any, ...]]:
        """The statement that writes `changes`, with its arguments.

        Without `assumptions` the caller has locked the rows and read the facts.
        """
        batch = assumptions.batch if assumptions is not None else None
        return self._queries["write_changes"].with_values(
            {
                "source_id": source_id,
                "is_locked": assumptions is None,
                "epoch": batch and batch.epoch,
                "batch": batch and batch.batch,
                "digest": batch and batch.digest,
                "response": assumptions and assumptions.response,
                "running_ids": list(assumptions.execution_ids) if assumptions else [],
                "unit_id": assumptions and assumptions.unit_id,
                **_execution_arrays(changes.executions),
                **_registry_arrays(_RESULT_ARRAYS, changes.results),
                **_registry_arrays(_CONSOLE_ARRAYS, changes.consoles),
                **_cost_arrays(changes.operator_costs),
            }
        )


def _registries_of(entries: Entries) -> tuple[set[int], set[int]]:
    """The executions whose port results, and those whose consoles, the fold needs."""
    results: set[int] = set()
    consoles: set[int] = set()
    for entry in entries:
        if isinstance(entry, PutPortResult | SetPortResultBytes | DeleteUris):
            results.add(entry.execution_id)
        if isinstance(entry, PutConsole | SetConsoleBytes | DeleteUris):
            consoles.add(entry.execution_id)
    return results, consoles


def _execution(row: asyncpg.Record, is_locked: bool, unit_id: int | None) -> Execution:
    status = _writer_status(row, is_locked, unit_id)
    if status is not WriterStatus.WRITER:
        return Execution(
            execution_id=row["execution_id"],
            writer_status=status,
            user_id=row["user_id"],
            computing_unit_id=row["computing_unit_id"],
        )
    return Execution(
        execution_id=row["execution_id"],
        writer_status=status,
        user_id=row["user_id"],
        computing_unit_id=row["computing_unit_id"],
        workflow_id=row["workflow_id"],
        warehouse=row["warehouse"],
        may_set_status=row["may_set_status"],
        status=row["status"],
        ended_by=row["ended_by"],
        ended_provisionally=bool(row["ended_provisionally"]),
        results=_registry.decode(row["results"]) if row["results"] else {},
        consoles=_registry.decode(row["consoles"]) if row["consoles"] else {},
    )


def _writer_status(row: asyncpg.Record, is_locked: bool, unit_id: int | None) -> WriterStatus:
    if row["user_id"] is None:
        return WriterStatus.NOT_BOUND
    if row["is_revoked"]:
        return WriterStatus.REVOKED
    if unit_id is not None and row["computing_unit_id"] != unit_id:
        return WriterStatus.OTHER_UNIT
    if not row["is_active"]:
        return WriterStatus.DEMOTED
    return WriterStatus.WRITER if is_locked else WriterStatus.BLOCKED


def _execution_arrays(executions: Mapping[int, ExecutionChange]) -> dict[str, list[Any]]:
    changes = executions.values()
    columns: dict[str, list[Any]] = {
        name: list(map(value_of, changes)) for name, value_of in _EXECUTION_COLUMNS
    }
    locations = columns["log_location"]
    columns["names_log_location"] = [location is not UNSET or None for location in locations]
    columns["log_location"] = [None if location is UNSET else location for location in locations]
    # `unnest` fills shorter arrays with nulls, so that a column that nobody named costs nothing.
    for name, column in columns.items():
        if column.count(None) == len(column):
            columns[name] = []
    columns["execution_id"] = list(executions)
    return columns


def _registry_arrays(
    names: Sequence[str], changes: Mapping[tuple[int, str], RegistryChange | None]
) -> dict[str, list[Any]]:
    """Without deletions."""
    rows = [(*key, change.uri, change.size_bytes) for key, change in changes.items() if change]
    columns = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
    return dict(zip(names, columns, strict=True))


def _cost_arrays(operator_costs: Mapping[int, Mapping[str, float]]) -> dict[str, list[Any]]:
    return {
        "costs_execution_id": list(operator_costs),
        "costs_operators": [
            msgspec.json.encode(operators).decode() for operators in operator_costs.values()
        ],
    }
