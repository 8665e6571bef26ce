"""Who may write, and rows that someone else has locked: nobody waits, nobody else is held up."""

from collections.abc import AsyncIterator

import pytest

from tests.databases import Database, connected
from tests.integration.central.batching import (
    Connection,
    Replica,
    Source,
    add_runs,
    apply_batch,
    replica,
    run,
    uris,
)


@pytest.fixture
async def central(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as central:
        yield central


async def test_a_foreign_source_changes_nothing_and_holds_nobody_up(
    central: Replica, database: Database, owner_connection: Connection
) -> None:
    unbound = Source("source-z")
    (eid,) = await add_runs(owner_connection, 1)

    async with connected(database.owner_url) as holder:
        await holder.execute("begin")
        await holder.execute(
            "select from texera_db.workflow_executions where eid = $1 for update", eid
        )
        refused = await apply_batch(central, unbound, 1, unbound.update(eid, status="FAILED"))
        await holder.execute("rollback")

    assert refused == ["not-bound"]


@pytest.mark.parametrize(
    ("statement", "slug"),
    [
        ("update cu_metadata.bindings set revoked_at = now()", "binding-revoked"),
        ("""update texera_db."user" set role = 'RESTRICTED'""", "user-demoted"),
        ("""update texera_db."user" set role = 'INACTIVE'""", "user-demoted"),
        ("delete from texera_db.workflow where wid = 101", "execution-not-found"),
    ],
)
async def test_what_waits_when_the_right_to_write_ends_is_refused_with_the_reason(
    statement: str, slug: str, central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    ids = await add_runs(owner_connection, 2)
    await apply_batch(central, source, 1, source.update(ids[0], status="RUNNING"))
    await owner_connection.execute(statement)

    entries = [source.update(eid, status="COMPLETED") for eid in ids]

    assert await apply_batch(central, source, 2, *entries) == [slug, slug]
    assert await apply_batch(central, source, 3, entries[0]) == [slug]


async def test_a_slow_delete_delays_its_own_runs_only_and_ends_as_gone(
    central: Replica, database: Database, owner_connection: Connection
) -> None:
    source = Source()
    ids = await add_runs(owner_connection, 3)
    slow = ids[1]
    entries = [
        source.update(ids[0], status="RUNNING"),
        source.update(slow, status="RUNNING"),
        source.update(ids[2], status="COMPLETED"),
        source.update(slow, status="COMPLETED"),
        source.entry("delete_uris", slow),
    ]

    async with connected(database.owner_url) as deleter:
        await deleter.execute("begin")
        await deleter.execute("delete from texera_db.workflow_executions where eid = $1", slow)
        first = await apply_batch(central, source, 1, *entries)
        await deleter.execute("commit")
    second = await apply_batch(central, source, 2, *entries[3:])

    assert first == ["applied", "deferred", "applied", "deferred", "deferred"]
    assert second == ["execution-not-found"] * 2
    assert (await run(owner_connection, ids[2]))["status"] == 3


async def test_what_others_committed_just_before_the_lock_is_seen(
    central: Replica, database: Database, owner_connection: Connection
) -> None:
    """The closer ends the run between two batches that it holds up."""
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    async with connected(database.owner_url) as closer:
        await closer.execute("begin")
        await closer.execute(
            "update texera_db.workflow_executions set status = 4 where eid = $1", eid
        )
        await closer.execute(
            "insert into cu_metadata.terminal_statuses (execution_id, status, provisional)"
            " values ($1, 4, true)",
            eid,
        )
        held = await apply_batch(central, source, 1, source.update(eid, status="COMPLETED"))
        await closer.execute("commit")

    assert held == ["deferred"]
    assert await apply_batch(central, source, 2, source.update(eid, status="COMPLETED")) == [
        "applied"
    ]


async def test_a_direct_insert_of_a_uri_in_flight_defers_instead_of_waiting(
    central: Replica, database: Database, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    put = source.entry("put_console", eid, operator_id="op", uri=uris(eid).console_uri("op"))
    async with connected(database.owner_url) as direct:
        await direct.execute("begin")
        await direct.execute(
            "insert into texera_db.operator_executions (workflow_execution_id, operator_id)"
            " values ($1, 'op')",
            eid,
        )
        held = await apply_batch(central, source, 1, put)
        await direct.execute("commit")

    assert held == ["deferred"]
    assert await apply_batch(central, source, 2, put) == ["applied"]
    assert await owner_connection.fetchval(
        "select console_messages_uri from texera_db.operator_executions"
        " where workflow_execution_id = $1",
        eid,
    ) == uris(eid).console_uri("op")


async def test_an_invalid_entry_alone_waits_for_its_locked_execution(
    central: Replica, database: Database, owner_connection: Connection
) -> None:
    """Refused at once, it would end before the deferred entries that it came after."""
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    invalid = source.update(eid, status="RUNNING") | {"op": "of-a-later-release"}

    async with connected(database.owner_url) as holder:
        await holder.execute("begin")
        await holder.execute(
            "select from texera_db.workflow_executions where eid = $1 for update", eid
        )
        while_locked = await apply_batch(central, source, 1, invalid)
        await holder.execute("rollback")
    unlocked = await apply_batch(central, source, 2, invalid)

    assert (while_locked, unlocked) == (["deferred"], ["unknown-operation"])
