"""A batch is applied exactly once: resends, races, cut connections, batches out of step."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from central.problems import BatchOutOfStep, DatabaseUnavailable
from tests.databases import Database, connected
from tests.integration.central.batching import (
    Connection,
    Replica,
    Source,
    add_runs,
    applications,
    count_applications,
    outcomes,
    replica,
    run,
)


@pytest.fixture
async def central(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as central:
        yield central


async def test_a_batch_sent_again_gets_the_same_answer_and_changes_nothing(
    central: Replica, owner_connection: Connection
) -> None:
    (eid,) = await add_runs(owner_connection, 1)
    await count_applications(owner_connection)
    source = Source()
    batch = source.batch(1, source.update(eid, status="RUNNING"), source.update(eid, status="DONE"))

    first = await central.batches.apply(source.source_id, batch)
    again = await central.batches.apply(source.source_id, batch)

    assert first == again
    assert json.loads(first)["batch"] == 1
    assert outcomes(first) == ["applied", "invalid-request"]
    assert await applications(owner_connection) == [(eid, 1)]
    assert central.counted("central_batches_total", outcome="applied") == 1
    assert central.counted("central_batches_total", outcome="repeated") == 1


async def test_a_resend_after_the_run_ended_elsewhere_is_still_answered_as_before(
    central: Replica, owner_connection: Connection
) -> None:
    (eid,) = await add_runs(owner_connection, 1)
    source = Source()
    batch = source.batch(1, source.update(eid, status="RUNNING"))
    first = await central.batches.apply(source.source_id, batch)
    await owner_connection.execute("delete from texera_db.workflow_executions where eid = $1", eid)

    assert await central.batches.apply(source.source_id, batch) == first


@pytest.mark.parametrize("number", [1, 2])
async def test_two_replicas_given_one_batch_at_the_same_time_apply_it_once(
    number: int, central: Replica, database: Database, owner_connection: Connection
) -> None:
    ids = await add_runs(owner_connection, 20)
    await count_applications(owner_connection)
    source = Source()
    if number == 2:
        await central.batches.apply(source.source_id, source.batch(1))
    batch = source.batch(number, *(source.update(eid, status="COMPLETED") for eid in ids))

    async with replica(database) as other:
        responses = await asyncio.gather(
            *(each.batches.apply(source.source_id, batch) for each in [central, other] * 4)
        )

    assert len(set(responses)) == 1
    assert outcomes(responses[0]) == ["applied"] * 20
    assert sorted(await applications(owner_connection)) == [(eid, 3) for eid in ids]


@pytest.mark.parametrize("number", [1, 3, 4, 9])
async def test_a_number_that_is_neither_the_last_nor_the_next_changes_nothing(
    number: int, central: Replica, owner_connection: Connection
) -> None:
    (eid,) = await add_runs(owner_connection, 1)
    source = Source()
    for applied in (1, 2):
        await central.batches.apply(source.source_id, source.batch(applied))
    if number == 3:
        await central.batches.apply(source.source_id, source.batch(3, source.update(eid, name="a")))
    stray = source.batch(number, source.update(eid, status="COMPLETED"))

    with pytest.raises(BatchOutOfStep) as refusal:
        await central.batches.apply(source.source_id, stray)

    assert refusal.value.document()["last_batch"] == (3 if number == 3 else 2)
    assert (await run(owner_connection, eid))["status"] == 0


async def test_a_spool_begins_with_batch_one_and_a_stray_one_leaves_no_cursor(
    central: Replica, owner_connection: Connection
) -> None:
    source = Source()

    with pytest.raises(BatchOutOfStep) as refusal:
        await central.batches.apply(source.source_id, source.batch(7))

    assert refusal.value.document()["last_batch"] == 0
    assert await owner_connection.fetchval("select count(*) from cu_metadata.cursors") == 0


async def test_sources_and_epochs_count_apart(central: Replica) -> None:
    for source in (Source(), Source(epoch="b" * 32), Source("source-b")):
        response = await central.batches.apply(source.source_id, source.batch(1))
        assert json.loads(response) == {"batch": 1, "outcomes": []}


async def test_a_connection_cut_before_the_commit_leaves_nothing_behind(
    central: Replica, database: Database, owner_connection: Connection
) -> None:
    ids = await add_runs(owner_connection, 2)
    await count_applications(owner_connection)
    source = Source()
    batch = source.batch(1, *(source.update(eid, status="COMPLETED") for eid in ids))
    async with connected(database.owner_url) as blocker:
        # The batch gets as far as its last statement but one: the audit of endings is locked.
        await blocker.execute("begin; lock table cu_metadata.terminal_statuses")
        sending = asyncio.create_task(central.batches.apply(source.source_id, batch))
        await cut_when_waiting(database)
        with pytest.raises(DatabaseUnavailable):
            await sending
        await blocker.execute("rollback")

    assert await applications(owner_connection) == []
    response = await central.batches.apply(source.source_id, batch)

    assert outcomes(response) == ["applied", "applied"]
    assert sorted(await applications(owner_connection)) == [(eid, 3) for eid in ids]


async def test_a_response_lost_after_the_commit_is_returned_again(
    central: Replica, database: Database, owner_connection: Connection
) -> None:
    (eid,) = await add_runs(owner_connection, 1)
    await count_applications(owner_connection)
    source = Source()
    batch = source.batch(
        1, source.update(eid, status="KILLED"), source.update(eid, status="FAILED")
    )
    first = await central.batches.apply(source.source_id, batch)
    async with connected(database.superuser_url) as superuser:
        await superuser.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1",
            "cu_metadata_central",
        )

    async with replica(database) as another:
        response = await another.batches.apply(source.source_id, batch)

    assert response == first
    assert outcomes(response) == ["applied", "status-conflict"]
    assert await applications(owner_connection) == [(eid, 5)]


async def cut_when_waiting(database: Database) -> None:
    """Ends central's session as soon as it waits for a lock."""
    async with connected(database.superuser_url) as superuser:
        async with asyncio.timeout(10):
            while not await superuser.fetchval(  # noqa: ASYNC110 (it is another process)
                """
                select pg_terminate_backend(pid) from pg_stat_activity
                where datname = $1 and usename = 'cu_metadata_central'
                  and wait_event_type = 'Lock'
                """,
                database.name,
            ):
                await asyncio.sleep(0.01)
