"""What a batch costs: statements at the server, and none for tables that it does not touch."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dev.postgres import Cluster
from tests.databases import Database, connected
from tests.integration.central.batching import (
    PORT,
    Connection,
    Replica,
    Source,
    add_runs,
    replica,
    uris,
)


@pytest.fixture
async def central(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as central:
        yield central


async def statements(database: Database) -> int:
    """How many statements central's role has sent, by the server's own count."""
    async with connected(database.superuser_url) as superuser:
        count: int = await superuser.fetchval(
            """
            select coalesce(sum(s.calls), 0)::int from pg_stat_statements s
            join pg_roles r on r.oid = s.userid
            join pg_database d on d.oid = s.dbid
            where s.toplevel and r.rolname = 'cu_metadata_central' and d.datname = $1
            """,
            database.name,
        )
        return count


async def costs(
    central: Replica, database: Database, source: Source, batches: list[list[dict[str, Any]]]
) -> list[int]:
    """Statements of each batch, but for the first, which begins the cursor."""
    counts = []
    for number, entries in enumerate(batches, start=1):
        before = await statements(database)
        await central.batches.apply(source.source_id, source.batch(number, *entries))
        counts.append(await statements(database) - before)
    return counts[1:]


async def test_an_ordinary_batch_takes_one_statement_and_a_locked_one_seven(
    central: Replica, cluster: Cluster, database: Database, owner_connection: Connection
) -> None:
    if not cluster.binaries.has_statement_statistics:
        pytest.skip("this Postgres has no pg_stat_statements")
    source = Source()
    known = await add_runs(owner_connection, 100)
    unknown = await add_runs(owner_connection, 100)

    def everything(ids: list[int]) -> list[dict[str, Any]]:
        return [
            entry
            for eid in ids
            for entry in (
                source.update(eid, status="RUNNING", name="n"),
                source.entry(
                    "put_port_result",
                    eid,
                    global_port_id=PORT,
                    result_uri=uris(eid).result_uri(PORT),
                ),
                source.entry("put_console", eid, operator_id="op", uri=uris(eid).console_uri("op")),
            )
        ]

    batches = [
        [source.update(eid, status="READY") for eid in known],
        [source.update(eid, status="RUNNING") for eid in known],
        everything(known),
        everything(unknown),
        [source.update(eid, status="COMPLETED") for eid in known + unknown],
        [source.update(eid, name="ended") for eid in known],
    ]

    assert await costs(central, database, source, batches) == [1, 1, 7, 1, 7]


async def test_a_repeated_batch_takes_three_statements(
    central: Replica, cluster: Cluster, database: Database, owner_connection: Connection
) -> None:
    if not cluster.binaries.has_statement_statistics:
        pytest.skip("this Postgres has no pg_stat_statements")
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    batch = source.batch(1, source.update(eid, status="RUNNING"))
    await central.batches.apply(source.source_id, batch)

    before = await statements(database)
    await central.batches.apply(source.source_id, batch)

    assert await statements(database) - before == 3


async def test_a_lone_write_is_not_planned_anew(
    cluster: Cluster, database: Database, owner_connection: Connection
) -> None:
    """Planning takes longer than running the plan. Postgres keeps one after five executions."""
    if not cluster.binaries.has_statement_statistics:
        pytest.skip("this Postgres has no pg_stat_statements")
    async with connected(database.superuser_url) as superuser:
        await superuser.execute(
            f"alter database {database.name} set pg_stat_statements.track_planning = on"
        )
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)

    async def plans() -> dict[str, int]:
        async with connected(database.superuser_url) as superuser:
            rows = await superuser.fetch(
                """
                select s.query, s.plans::int, s.calls::int from pg_stat_statements s
                join pg_database d on d.oid = s.dbid
                where d.datname = $1 and s.query like '%cursor_advanced%' and s.calls > 0
                """,
                database.name,
            )
        (row,) = rows
        return {"plans": row["plans"], "calls": row["calls"]}

    async with replica(database) as central:
        for number in range(1, 11):
            await central.batches.apply(
                "source-a", source.batch(number, source.update(eid, name="n"))
            )
        before = await plans()
        for number in range(11, 21):
            await central.batches.apply(
                "source-a", source.batch(number, source.update(eid, name="n"))
            )

    after = await plans()
    assert before["plans"] > 0  # they are counted
    assert after == {"plans": before["plans"], "calls": before["calls"] + 10}
