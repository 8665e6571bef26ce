"""The one exception to "Texera's tables are never altered": the indexes they lack, on request.

Not a numbered migration: it is a choice of whoever runs the database, it cannot run inside a
transaction, and doing it again changes nothing. An index is made beside the running system. A
run that was interrupted leaves an index that is of no use; the next run makes it anew.
"""

from collections.abc import Callable
from typing import TypeAlias

import asyncpg

from central.migrations import MigrationFailed
from central.store.database import session_settings
from central.store.queries import load

ADVISORY_LOCK = 7_080_002
"""Beside the runner's own."""

Report: TypeAlias = Callable[[str], None]


async def create_indexes(owner_url: str, report: Report) -> None:
    """Raises `MigrationFailed`. Takes about a second for each million executions."""
    queries = load("indexes")
    # No timeout of ours: on a large table it takes as long as it takes.
    connection = await asyncpg.connect(
        owner_url,
        timeout=10,
        statement_cache_size=0,
        server_settings=session_settings(owner_url, "texera-cu-central migrate"),
    )
    try:
        if not await connection.fetchval(queries["try_index_lock"].text, ADVISORY_LOCK):
            raise MigrationFailed("another `migrate --with-indexes` is at work")
        for row in await connection.fetch(queries["find_unfinished_indexes"].text):
            await connection.execute(row[0])
            report(f"{row[0]}: an interrupted run had left it unfinished")
        for query in (
            queries["index_versions_by_workflow"],
            queries["index_executions_by_version"],
            queries["index_executions_by_unit"],
        ):
            await connection.execute(query.text)
            report(f"{query.name} is there")
    except asyncpg.PostgresError as error:
        raise MigrationFailed(f"the indexes: {error}") from error
    finally:
        await connection.close(timeout=10)
