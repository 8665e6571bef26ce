"""Expired executions of one computing unit: listed, and their result and log references cleared.

The unit's owner, or a holder of a WRITE grant on it, clears; ADMIN may list. No statement here
touches the rows of another unit.
"""

import asyncpg

from central.domain.callers import User
from central.problems import ExecutionNotEnded, ExecutionNotFound
from central.store.access import check_unit_writable, user_demoted
from central.store.database import Database, Transaction
from central.store.executions import execution_of
from central.store.queries import load
from central.wire import calls


class Expired:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("expired")

    async def list(
        self, user: User, computing_unit_id: int, query: calls.ExpiredQuery
    ) -> calls.ExpiredExecutions:
        """Raises `ComputingUnitNotFound` or `ComputingUnitForbidden`."""
        rows = await self._database.read(
            self._queries["expired_executions"],
            computing_unit_id,
            user.user_id,
            query.ttl_seconds,
            query.limit,
        )
        if not (user.reads_everything and rows[0]["unit_exists"]):
            check_unit_writable(rows[0], user, computing_unit_id, "cleaning up")
        return calls.ExpiredExecutions(
            [execution_of(row) for row in rows if row["execution_id"] is not None]
        )

    async def clear(
        self,
        transaction: Transaction,
        user: User,
        computing_unit_id: int,
        selection: calls.ExpiredSelection,
    ) -> calls.ClearedExecutions:
        """All or none. Raises the problems above, `UserDemoted`, `ExecutionNotFound` for an id
        of another unit, `ExecutionNotEnded`.
        """
        rows = await transaction.fetch(
            self._queries["clear_expired"],
            computing_unit_id,
            user.user_id,
            selection.execution_ids,
        )
        check_unit_writable(rows[0], user, computing_unit_id, "cleaning up")
        _check_rows(rows[0], computing_unit_id)
        return calls.ClearedExecutions(
            [row["execution_id"] for row in rows if row["execution_id"] is not None]
        )


def _check_rows(row: asyncpg.Record, unit: int) -> None:
    if not row["is_active"]:
        raise user_demoted()
    if row["missing_id"] is not None:
        raise ExecutionNotFound(
            f"execution_ids: there is no execution {row['missing_id']} on computing unit {unit}"
        )
    if row["open_id"] is not None:
        raise ExecutionNotEnded(f"execution_ids: execution {row['open_id']} has not ended")
