"""Two copies of one database: on one the old SQL runs, before the other stand the two services."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg

from dev.direct_sql import DirectSqlBackend
from dev.vfs_uri import console_uri, global_port_id, result_uri
from dev.world import WORLD
from tests.databases import Template, connected, copy_of
from tests.stacks import Stack, running_stack

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Tables: TypeAlias = dict[str, list[dict[str, Any]]]

WID, CUID = WORLD.workflow_id, WORLD.computing_unit_id
OPERATOR = "op-1"
PORT = global_port_id(OPERATOR, 0)
_KEYS = {
    "workflow_version": "vid",
    "workflow_executions": "eid",
    "operator_executions": "workflow_execution_id, operator_id",
    "operator_port_executions": "workflow_execution_id, global_port_id",
}
_CLOCKS_APART = timedelta(minutes=10)
"""The old way stamps with the unit's clock, the new one with the database's."""


@dataclass(frozen=True)
class Pair:
    """The old way and the new one, each with its own copy."""

    old: DirectSqlBackend
    """The statements of Texera's computing unit, for the owner of the sample world."""
    old_rows: Connection
    new: Stack
    new_rows: Connection

    async def started(self, **columns: Any) -> int:
        """The same running execution in both, bound to the sidecar."""
        eid = await self.new.create()
        row = await fetch_row(self.new_rows, eid) | columns
        names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
        await self.old_rows.execute(
            f"INSERT INTO texera_db.workflow_executions ({names}) VALUES ({places})",  # noqa: S608
            *row.values(),
        )
        changes = ", ".join(f"{name} = ${n}" for n, name in enumerate(columns, start=2))
        if changes:
            await self.new_rows.execute(
                f"UPDATE texera_db.workflow_executions SET {changes} WHERE eid = $1",  # noqa: S608
                eid,
                *columns.values(),
            )
        return eid

    async def both(self, statement: str, *arguments: Any) -> None:
        """Something that the dashboard does, in both copies."""
        for connection in (self.old_rows, self.new_rows):
            await connection.execute(statement, *arguments)

    async def tables(self) -> tuple[Tables, Tables]:
        """Every row of Texera's tables, old and new; times only as whether they agree."""
        old, new = await fetch_tables(self.old_rows), await fetch_tables(self.new_rows)
        for table in _KEYS:
            for old_row, new_row in zip(old[table], new[table], strict=False):
                _blur_times(old_row, new_row)
        return old, new


async def fetch_row(connection: Connection, eid: int) -> dict[str, Any]:
    row = await connection.fetchrow(
        "SELECT * FROM texera_db.workflow_executions WHERE eid = $1", eid
    )
    assert row is not None
    return dict(row)


async def fetch_tables(connection: Connection) -> Tables:
    return {
        table: [
            dict(row)
            for row in await connection.fetch(
                f"SELECT * FROM texera_db.{table} ORDER BY {keys}"  # noqa: S608
            )
        ]
        for table, keys in _KEYS.items()
    }


def _blur_times(old: dict[str, Any], new: dict[str, Any]) -> None:
    for name, value in old.items():
        other = new.get(name)
        both = isinstance(value, datetime) and isinstance(other, datetime)
        if both and abs(value - other) < _CLOCKS_APART:
            old[name] = new[name] = "the same time"


def run_of(eid: int) -> str:
    return f"/v1/executions/{eid}"


def result_of(eid: int, port: str = PORT) -> str:
    return result_uri(WID, eid, port)


def console_of(eid: int, operator: str = OPERATOR) -> str:
    return console_uri(WID, eid, operator)


async def store_result(pair: Pair, eid: int, port: str = PORT, uri: str | None = None) -> None:
    """A row by the old SQL in both copies: what an earlier release left behind."""
    await pair.both(
        "INSERT INTO texera_db.operator_port_executions VALUES ($1, $2, $3, 7)",
        eid,
        port,
        uri if uri is not None else result_of(eid, port),
    )


@asynccontextmanager
async def running_pair(template: Template, folder: Path) -> AsyncIterator[Pair]:
    async with (
        copy_of(template) as old,
        copy_of(template) as new,
        connected(old.owner_url) as old_rows,
        connected(new.owner_url) as new_rows,
        DirectSqlBackend(old.owner_url, WORLD.owner.user_id) as direct,
        running_stack(new.central_url, folder) as stack,
    ):
        yield Pair(direct, old_rows, stack, new_rows)
