"""Rows of Texera's that no sidecar made, and a look at what other sessions wait for."""

import asyncio
from typing import Any

from dev.world import WORLD


async def execution_by_sql(connection: Any, **columns: Any) -> int:
    """An execution of the owner's on the private workflow, written as Texera does today."""
    row = {
        "vid": WORLD.version_id,
        "uid": WORLD.owner.user_id,
        "cuid": WORLD.computing_unit_id,
        "environment_version": "sql",
    } | columns
    places = ", ".join(f"${n}" for n in range(1, len(row) + 1))
    return int(
        await connection.fetchval(
            f"INSERT INTO texera_db.workflow_executions ({', '.join(row)})"  # noqa: S608
            f" VALUES ({places}) RETURNING eid",
            *row.values(),
        )
    )


async def until_blocking(connection: Any) -> None:
    """Returns when another session waits for a lock of this one's."""
    # Not pg_stat_activity: a transaction sees that as it was at its first look.
    waiting = "SELECT count(*) FROM pg_locks WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    async with asyncio.timeout(30):  # of a loaded machine
        while not await connection.fetchval(waiting):  # noqa: ASYNC110 (another process waits)
            await asyncio.sleep(0.01)


async def until_waiting(connection: Any, count: int) -> None:
    """Until so many of central's sessions wait for a lock."""
    query = """
        select count(distinct pid) from pg_locks
        where not granted and pid in (
            select pid from pg_stat_activity
            where usename = 'cu_metadata_central' and datname = current_database()
        )
    """
    async with asyncio.timeout(30):
        while await connection.fetchval(query) != count:  # noqa: ASYNC110 (another process waits)
            await asyncio.sleep(0.01)
