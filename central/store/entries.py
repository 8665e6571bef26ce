"""The rows that entries change: locked, read, folded, and written once per table.

The order matters. First the locks, in id order, on the rows that the source may write to;
then, with snapshots of their own, what else the fold has to know: why a row could not be
locked, who ended an execution, which URIs are stored; then the fold; then one statement per
table that has changes. Most batches need nothing else known, and lock and write is all they
do. Nothing here waits for a row of another call's: a batch that finds one locked defers its
entries. A revocation counts from the statement that locks: a batch under way is still applied.

Should the database refuse the values (SQLSTATE class 22 or 23: a size that an INT column
cannot hold, a constraint that this release does not know of), the transaction cannot go on.
It is run again `alone`: halves of the entries under savepoints, halved further where they
fail, until the entries at fault stand alone and are refused. That is the same as folding all
of them together, because folding is associative, and costs the ordinary batch no savepoint.
"""

from collections.abc import Mapping, Sequence, Set

import asyncpg
import msgspec
from asyncpg import DataError, IntegrityConstraintViolationError

from central import problems
from central.domain.fold import Changes, Execution, Verdict, WriterStatus, fold
from central.domain.uri_registry import UriRow
from central.store.database import Transaction
from central.store.queries import load
from central.store.unnest_arrays import cost_columns, execution_columns, registry_columns
from central.wire.entries import (
    AnyEntry,
    DeleteUris,
    InvalidEntry,
    PutConsole,
    PutPortResult,
    SetConsoleBytes,
    SetPortResultBytes,
)
from kit.http.problems import Problem
from kit.texera.statuses import TERMINAL_CODES

DATA_ERRORS = (DataError, IntegrityConstraintViolationError)

Entries = Sequence[AnyEntry | InvalidEntry]


class EntryStore:
    """Applies entries inside a transaction that the caller opened and commits."""

    def __init__(self) -> None:
        self._queries = load("entries")

    async def apply(
        self,
        transaction: Transaction,
        source_id: str,
        entries: Entries,
        sent_at_ms: int,
        *,
        alone: bool = False,
        wait: bool = False,
        unit_id: int | None = None,
    ) -> tuple[list[Verdict], Mapping[int, Execution]]:
        """The verdict on each entry, in order, and the executions as they are then.

        Raises one of `DATA_ERRORS` if the database refuses a value, after which the
        transaction is lost: run it again with `alone`, and only the entries at fault are
        refused. With `wait` a single locked row is waited for instead of deferred. With
        `unit_id` only executions of that computing unit are written to.
        """
        executions = await self._lock(transaction, source_id, entries, unit_id, wait=wait)
        if alone:
            return await self._bisect(transaction, source_id, executions, entries, sent_at_ms)
        folded = fold(source_id, executions, entries, sent_at_ms)
        await self._write(transaction, source_id, folded.changes)
        return folded.verdicts, folded.after()

    async def _lock(
        self,
        transaction: Transaction,
        source_id: str,
        entries: Entries,
        unit_id: int | None,
        *,
        wait: bool,
    ) -> dict[int, Execution]:
        ids = _ids(entries)
        if not ids:
            return {}
        if wait:
            assert len(ids) == 1  # noqa: S101 (rows that are waited for one by one may deadlock)
            locked = await transaction.fetch(
                self._queries["lock_execution"], source_id, ids[0], unit_id
            )
        else:
            locked = await transaction.fetch(
                self._queries["lock_executions"], source_id, ids, unit_id
            )
        held = {row["execution_id"]: row["status"] for row in locked}
        registries = await self._read_registries(transaction, entries, held.keys())
        endings = await self._read_endings(transaction, held)
        executions = {
            row["execution_id"]: _writable(row, registries, endings.get(row["execution_id"]))
            for row in locked
        }
        if len(executions) < len(ids):
            missing = [execution_id for execution_id in ids if execution_id not in executions]
            executions |= await self._read_standings(transaction, source_id, missing, unit_id)
        return executions

    async def _read_standings(
        self, transaction: Transaction, source_id: str, ids: Sequence[int], unit_id: int | None
    ) -> dict[int, Execution]:
        """Why the source may not write to these; none of an execution of its own that is gone."""
        standings = self._queries["read_standings"]
        rows = await transaction.fetch(standings, source_id, ids, unit_id)
        return {row["execution_id"]: _not_writable(row) for row in rows}

    async def _read_endings(
        self, transaction: Transaction, statuses: Mapping[int, int]
    ) -> dict[int, asyncpg.Record]:
        """Who ended what has ended. An ending counts while the row has the status it speaks of."""
        ended = [key for key, status in statuses.items() if status in TERMINAL_CODES]
        if not ended:
            return {}
        rows = await transaction.fetch(self._queries["read_endings"], ended)
        return {r["execution_id"]: r for r in rows if r["status"] == statuses[r["execution_id"]]}

    async def _read_registries(
        self, transaction: Transaction, entries: Entries, held: Set[int]
    ) -> dict[tuple[str, int], dict[str, UriRow]]:
        results: set[int] = set()
        consoles: set[int] = set()
        for entry in entries:
            if isinstance(entry, PutPortResult | SetPortResultBytes | DeleteUris):
                results.add(entry.execution_id)
            if isinstance(entry, PutConsole | SetConsoleBytes | DeleteUris):
                consoles.add(entry.execution_id)
        registries: dict[tuple[str, int], dict[str, UriRow]] = {}
        if held & (results | consoles):
            asked = (list(results & held), list(consoles & held))
            for row in await transaction.fetch(self._queries["read_registries"], *asked):
                registry = registries.setdefault((row["registry"], row["execution_id"]), {})
                registry[row["key"]] = UriRow(row["uri"], row["size_bytes"])
        return registries

    async def _bisect(
        self,
        transaction: Transaction,
        source_id: str,
        executions: Mapping[int, Execution],
        entries: Entries,
        sent_at_ms: int,
    ) -> tuple[list[Verdict], Mapping[int, Execution]]:
        folded = fold(source_id, executions, entries, sent_at_ms)
        try:
            async with transaction.savepoint():
                await self._write(transaction, source_id, folded.changes)
            return folded.verdicts, folded.after()
        except DATA_ERRORS as error:
            if len(entries) == 1:
                refused = msgspec.structs.replace(
                    folded.verdicts[0], outcome="refused", problem=_problem(error), removed=None
                )
                return [refused], executions
        verdicts: list[Verdict] = []
        middle = len(entries) // 2
        for half in (entries[:middle], entries[middle:]):
            halves_verdicts, executions = await self._bisect(
                transaction, source_id, executions, half, sent_at_ms
            )
            verdicts += halves_verdicts
        return verdicts, executions

    async def _write(self, transaction: Transaction, source_id: str, changes: Changes) -> None:
        queries = self._queries
        if changes.executions:
            columns = execution_columns(changes.executions)
            await transaction.execute(queries["write_executions"], source_id, *columns)
        deleted_results = [key for key, change in changes.results.items() if change is None]
        deleted_consoles = [key for key, change in changes.consoles.items() if change is None]
        if deleted_results or deleted_consoles:
            await transaction.execute(
                queries["delete_registry_rows"],
                [execution_id for execution_id, _ in deleted_results],
                [key for _, key in deleted_results],
                [execution_id for execution_id, _ in deleted_consoles],
                [key for _, key in deleted_consoles],
            )
        if any(changes.results.values()):
            await transaction.execute(queries["write_results"], *registry_columns(changes.results))
        if any(changes.consoles.values()):
            consoles = registry_columns(changes.consoles)
            await transaction.execute(queries["write_consoles"], *consoles)
        if changes.operator_costs:
            costs = cost_columns(changes.operator_costs)
            await transaction.execute(queries["write_operator_costs"], *costs)


def _ids(entries: Entries) -> list[int]:
    return sorted({e.execution_id for e in entries if not isinstance(e, InvalidEntry)})


def _writable(
    row: asyncpg.Record,
    registries: Mapping[tuple[str, int], Mapping[str, UriRow]],
    ending: asyncpg.Record | None,
) -> Execution:
    execution_id = row["execution_id"]
    return Execution(
        execution_id=execution_id,
        standing=WriterStatus.WRITER,
        user_id=row["user_id"],
        workflow_id=row["workflow_id"],
        warehouse=row["warehouse"],
        status=row["status"],
        ended_by=ending["source_id"] if ending else None,
        ended_provisionally=ending["provisional"] if ending else False,
        results=registries.get(("result", execution_id), {}),
        consoles=registries.get(("console", execution_id), {}),
    )


def _not_writable(row: asyncpg.Record) -> Execution:
    if row["user_id"] is None:
        standing = WriterStatus.NOT_BOUND
    elif row["is_revoked"]:
        standing = WriterStatus.REVOKED
    elif row["is_elsewhere"]:
        standing = WriterStatus.OTHER_UNIT
    elif not row["is_active"]:
        standing = WriterStatus.DEMOTED
    else:
        standing = WriterStatus.ROW_LOCKED
    return Execution(execution_id=row["execution_id"], standing=standing, user_id=row["user_id"])


def _problem(error: asyncpg.PostgresError) -> Problem:
    if isinstance(error, asyncpg.ForeignKeyViolationError):
        return problems.ExecutionNotFound("the execution was deleted meanwhile")
    constraint = f" ({error.constraint_name})" if getattr(error, "constraint_name", None) else ""
    return problems.ValueOutOfRange(f"{error}{constraint}")
