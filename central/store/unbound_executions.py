"""Debris: open runs that no sidecar ever bound, found and ended at an operator's word.

The closer leaves them alone: without a lease, silence says nothing. What is known is how long
ago Texera last wrote to the row (for a long run that may be its start), and whether its unit was
terminated.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from functools import partial
from typing import Literal, TypeAlias

import msgspec

from central.store.close_executions import Closings, Reason
from central.store.database import Database, Transaction
from central.store.queries import load
from kit.texera.statuses import Status, status_of_code

UnitState: TypeAlias = Literal["running", "terminated", "none"]
PAGE = 500
"""How many are ended in one transaction."""
PART = 20_000
"""How many executions one statement looks at: some ten milliseconds each, whatever there is."""


class UnboundFilter(msgspec.Struct, frozen=True):
    """Which runs are meant: those that agree with every part that is given."""

    min_age_s: float
    unit_state: UnitState | None = None
    computing_unit_id: int | None = None


class UnboundRun(msgspec.Struct, frozen=True):
    """`unit_state` is none where the row names no unit, or one that is gone."""

    execution_id: int
    workflow_id: int
    user_id: int
    computing_unit_id: int | None
    status: Status
    unit_state: UnitState
    updated_at: datetime


class UnboundExecutions:
    def __init__(self, database: Database, closings: Closings) -> None:
        self._database = database
        self._closings = closings
        self._queries = load("unbound_executions")

    async def find(self, wanted: UnboundFilter) -> AsyncIterator[UnboundRun]:
        """All of them in id order, read part by part."""
        after = 0
        while rows := await self._database.read(
            self._queries["find_debris"], *msgspec.structs.astuple(wanted), after, PART
        ):
            for row in rows:
                columns = dict(row)
                after = columns.pop("last_id")
                code = columns.pop("status_code")
                if code is not None:
                    yield UnboundRun(status=status_of_code(code), **columns)

    async def close(self, runs: Sequence[UnboundRun], min_age_s: float) -> list[int]:
        """Ends those that are still what they were found to be; a page at most."""
        ids = [run.execution_id for run in runs]
        return await self._database.run(partial(self._close, ids=ids, min_age_s=min_age_s))

    async def _close(
        self, transaction: Transaction, *, ids: Sequence[int], min_age_s: float
    ) -> list[int]:
        rows = await transaction.fetch(self._queries["lock_debris"], ids, min_age_s)
        reasons = {row["execution_id"]: Reason.DEBRIS for row in rows}
        await self._closings.close(transaction, reasons)
        return list(reasons)
