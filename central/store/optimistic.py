"""A batch in one statement, where nothing stands against it (optimistic concurrency control).

Nearly every batch is a running execution's own next step: the cursor is where it should be, the
executions are running and this source may write to them, the URIs are new, the sizes are of
rows that are there. So it is folded on that assumption first, and one statement checks the
assumption and writes, or writes nothing. That is one round trip and one commit instead of
six to nine statements. What decides stays the fold; the assumption only stands in for reading.

Assumed is what the statement can check; remembered is only what never changes
(`store/running`). Whatever
else there is about a batch (a refusal, a deletion, an ended run, a resend, a row that is locked
or gone) is for `store/batches`, which locks and reads first.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
from asyncpg import DataError, IntegrityConstraintViolationError

from central.domain.fold import Execution, Folded, Verdict, fold
from central.domain.uri_registry import UriRow
from central.store.binding_cache import BindingCache
from central.store.database import RETRYABLE_ERRORS, Database
from central.store.queries import load
from central.store.unnest_arrays import cost_columns, execution_columns, registry_columns
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

FALLBACK_ERRORS: tuple[type[Exception], ...] = (
    *RETRYABLE_ERRORS,
    DataError,
    IntegrityConstraintViolationError,
)
"""Nothing was written, and why is for the slower way to say."""

_THERE = UriRow(None, None)


class Optimistic:
    """Promise: what it answers is applied; None is an assumption that did not hold, and nothing
    was changed."""

    def __init__(self, database: Database, running: BindingCache) -> None:
        self._database = database
        self._running = running
        self._queries = load("optimistic")

    async def apply(
        self,
        source_id: str,
        batch: BatchRequest,
        entries: Sequence[AnyEntry | InvalidEntry],
        unit_id: int | None,
        answer_of: Callable[[int, Sequence[Verdict]], bytes],
    ) -> tuple[bytes, list[Verdict]] | None:
        """The answer and the verdicts, if the batch was applied just now."""
        assumed = self._assume(source_id, entries) if batch.batch > 1 else None
        if not assumed:
            return None
        folded = fold(source_id, assumed, entries, batch.sent_at_ms)
        if any(verdict.outcome != "applied" for verdict in folded.verdicts):
            return None
        answer = answer_of(batch.batch, folded.verdicts)
        if not await self._write(source_id, batch, answer, assumed, folded, unit_id):
            return None
        self._running.learn(source_id, folded.after())
        return answer, folded.verdicts

    def _assume(
        self, source_id: str, entries: Sequence[AnyEntry | InvalidEntry]
    ) -> dict[int, Execution] | None:
        """The executions as the entries need them to be; None where that cannot be told."""
        present: dict[tuple[str, int], dict[str, UriRow]] = {}
        stored: set[tuple[str, int, str]] = set()
        assumed: dict[int, Execution] = {}
        for entry in entries:
            execution_id = entry.execution_id
            execution = self._running.get(source_id, execution_id)
            if execution is None:
                return None
            assumed[execution_id] = execution
            match entry:
                case PutPortResult(global_port_id=key) | PutConsole(operator_id=key):
                    registry = "results" if isinstance(entry, PutPortResult) else "consoles"
                    if key in present.get((registry, execution_id), ()):
                        return None  # the row is there, and what it holds is not known
                    stored.add((registry, execution_id, key))
                case SetPortResultBytes(global_port_id=key) | SetConsoleBytes(operator_id=key):
                    registry = "results" if isinstance(entry, SetPortResultBytes) else "consoles"
                    if (registry, execution_id, key) not in stored:
                        present.setdefault((registry, execution_id), {})[key] = _THERE
                case DeleteUris() | InvalidEntry():
                    return None
        for (registry, execution_id), rows in present.items():
            with_rows = msgspec.structs.replace(assumed[execution_id], **{registry: rows})
            assumed[execution_id] = with_rows
        return assumed

    async def _write(
        self,
        source_id: str,
        batch: BatchRequest,
        answer: bytes,
        assumed: Mapping[int, Execution],
        folded: Folded,
        unit_id: int | None,
    ) -> bool:
        changes = folded.changes
        try:
            rows = await self._database.change(
                self._queries["apply_as_expected"],
                *(source_id, batch.epoch, batch.batch, batch.digest, answer, list(assumed)),
                *execution_columns(changes.executions),
                *registry_columns(changes.results),
                *registry_columns(changes.consoles),
                *cost_columns(changes.operator_costs),
                unit_id,
            )
        except FALLBACK_ERRORS:
            return False
        return bool(rows[0]["holds"])
