"""Expired executions of one computing unit: found, and cleared of what they point to.

A unit's owner, or a holder of a WRITE grant on it, cleans up; ADMIN may look. No statement
here reaches the rows of another unit.
"""

import asyncpg

from central.auth.user_tokens import User
from central.problems import (
    ComputingUnitForbidden,
    ComputingUnitNotFound,
    ExecutionNotEnded,
    ExecutionNotFound,
    UserDemoted,
)
from central.store.database import Database, Transaction
from central.store.executions import execution_of
from central.store.queries import load
from central.wire import calls
from kit.http.problems import Problem


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
        problem = _unit_problem(rows[0], user, computing_unit_id)
        if problem is not None and not (user.reads_everything and rows[0]["unit_exists"]):
            raise problem
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
        that is not the unit's, `ExecutionNotEnded`.
        """
        rows = await transaction.fetch(
            self._queries["clear_expired"],
            computing_unit_id,
            user.user_id,
            selection.execution_ids,
        )
        problem = _unit_problem(rows[0], user, computing_unit_id) or _row_problem(
            rows[0], computing_unit_id
        )
        if problem is not None:
            raise problem
        return calls.ClearedExecutions(
            [row["execution_id"] for row in rows if row["execution_id"] is not None]
        )


def _unit_problem(row: asyncpg.Record, user: User, unit: int) -> Problem | None:
    if row["unit_privilege"] is None and not (user.reads_everything and row["unit_exists"]):
        return ComputingUnitNotFound(f"there is no computing unit {unit} that you may use")
    if row["unit_privilege"] != "WRITE":
        return ComputingUnitForbidden(
            f"cleaning up on computing unit {unit} takes a WRITE grant on it"
        )
    return None


def _row_problem(row: asyncpg.Record, unit: int) -> Problem | None:
    if not row["is_active"]:
        return UserDemoted("the token's user is no longer REGULAR or ADMIN")
    if row["missing_id"] is not None:
        return ExecutionNotFound(
            f"execution_ids: there is no execution {row['missing_id']} on computing unit {unit}"
        )
    if row["open_id"] is not None:
        return ExecutionNotEnded(f"execution_ids: execution {row['open_id']} has not ended")
    return None
