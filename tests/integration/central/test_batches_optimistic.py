"""The one statement of an ordinary batch: applied if all is as assumed, else nothing of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from central.problems import BatchOutOfStep
from dev.world import WORLD
from tests.databases import Database, connected
from tests.integration.central.batching import (
    PORT,
    Connection,
    Replica,
    Source,
    add_runs,
    apply_batch,
    outcomes,
    replica,
    run,
    uris,
)
from tests.integration.central.rows import until_blocking

Fault: TypeAlias = Callable[[Connection, int], Awaitable[Any]]
OTHER_URI = "vfs:///elsewhere"


@pytest.fixture
async def central(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as central:
        yield central


@pytest.fixture
async def known(central: Replica, owner_connection: Connection) -> tuple[Source, int]:
    """A source whose first batch has made central know the run."""
    (eid,) = await add_runs(owner_connection, 1)
    source = Source()
    assert await apply_batch(central, source, 1, source.update(eid, status="READY")) == ["applied"]
    return source, eid


def at_once(central: Replica) -> float:
    return central.counted("central_batches_total", outcome="applied_at_once")


def ordinary(source: Source, eid: int) -> list[dict[str, Any]]:
    """A running execution's next step, every table among it."""
    own = uris(eid)
    return [
        source.update(eid, status="RUNNING", name="n", log_location=None),
        source.entry("put_port_result", eid, global_port_id=PORT, result_uri=own.result_uri(PORT)),
        source.entry("put_console", eid, operator_id="op", uri=own.console_uri("op"), bytes=5),
        source.entry("set_console_bytes", eid, operator_id="op", bytes=9),
        source.entry("put_operator_costs", eid, operators={"op": 1.5}),
    ]


async def stored(connection: Connection, eid: int) -> dict[str, Any]:
    """All that is stored of a run, but for times."""
    execution = dict(await run(connection, eid))
    for name in ("starting_time", "last_update_time", "age"):
        del execution[name]
    tables = {
        "operator_port_executions": "workflow_execution_id",
        "operator_executions": "workflow_execution_id",
    }
    children = {
        table: [
            dict(row)
            for row in await connection.fetch(
                f"select * from texera_db.{table} where {key} = $1",  # noqa: S608
                eid,
            )
        ]
        for table, key in tables.items()
    }
    own = {
        table: [
            tuple(row)
            for row in await connection.fetch(
                f"select {columns} from cu_metadata.{table} where execution_id = $1",  # noqa: S608
                eid,
            )
        ]
        for table, columns in {
            "operator_costs": "operators",
            "terminal_statuses": "status, source_id, provisional, reason",
        }.items()
    }
    return {"execution": execution, **children, **own}


async def test_it_leaves_the_rows_that_step_by_step_leaves(
    central: Replica, database: Database, known: tuple[Source, int], owner_connection: Connection
) -> None:
    source, eid = known
    (other,) = await add_runs(owner_connection, 1)
    slow_source = Source(epoch="b" * 32)

    for number in (2, 3):
        entries = ordinary(source, eid) if number == 2 else [source.update(eid, status="FAILED")]
        assert set(await apply_batch(central, source, number, *entries)) == {"applied"}
    async with replica(database) as other_replica:  # knows neither run
        entries = [*ordinary(slow_source, other), slow_source.update(other, status="FAILED")]
        assert set(await apply_batch(other_replica, slow_source, 1, *entries)) == {"applied"}

    assert at_once(central) == 2
    mine = json.dumps(await stored(owner_connection, eid), default=str)
    theirs = json.dumps(await stored(owner_connection, other), default=str)
    assert mine.replace(str(eid), "EID") == theirs.replace(str(other), "EID")


async def ended(connection: Connection, eid: int) -> None:
    await connection.execute(
        "update texera_db.workflow_executions set status = 5 where eid = $1", eid
    )


async def revoked(connection: Connection, eid: int) -> None:
    await connection.execute(
        "update cu_metadata.bindings set revoked_at = now() where execution_id = $1", eid
    )


async def demoted(connection: Connection, eid: int) -> None:
    await connection.execute(
        "update texera_db.\"user\" set role = 'RESTRICTED' where uid = $1", WORLD.owner.user_id
    )


async def deleted(connection: Connection, eid: int) -> None:
    await connection.execute("delete from texera_db.workflow_executions where eid = $1", eid)


async def another_uri(connection: Connection, eid: int) -> None:
    await connection.execute(
        "insert into texera_db.operator_port_executions values ($1, $2, $3, 7)",
        eid,
        PORT,
        OTHER_URI,
    )


async def same_uri(connection: Connection, eid: int) -> None:
    await connection.execute(
        "insert into texera_db.operator_port_executions values ($1, $2, $3, 7)",
        eid,
        PORT,
        uris(eid).result_uri(PORT),
    )


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (ended, ["late", "applied", "applied", "applied", "applied"]),
        (revoked, ["binding-revoked"] * 5),
        (demoted, ["user-demoted"] * 5),
        (deleted, ["execution-not-found"] * 5),
        (another_uri, ["applied", "uri-conflict", "applied", "applied", "applied"]),
        (same_uri, ["applied"] * 5),
    ],
)
async def test_what_is_not_as_assumed_is_judged_step_by_step(
    central: Replica,
    known: tuple[Source, int],
    owner_connection: Connection,
    fault: Fault,
    expected: list[str],
) -> None:
    source, eid = known
    await fault(owner_connection, eid)

    assert await apply_batch(central, source, 2, *ordinary(source, eid)) == expected

    assert at_once(central) == 0
    # What can be seen beforehand is no error in the database's log.
    assert central.counted("central_transactions_total", outcome="rolled_back") == 0


async def test_a_size_without_a_row_is_refused_and_one_with_a_row_is_set(
    central: Replica, known: tuple[Source, int], owner_connection: Connection
) -> None:
    source, eid = known
    size = source.entry("set_port_result_bytes", eid, global_port_id=PORT, result_bytes=4)

    assert await apply_batch(central, source, 2, size) == ["port-result-not-found"]
    await same_uri(owner_connection, eid)
    assert await apply_batch(central, source, 3, size) == ["applied"]

    assert at_once(central) == 1
    (row,) = (await stored(owner_connection, eid))["operator_port_executions"]
    assert row["result_size"] == 4


async def test_a_locked_row_is_deferred(
    central: Replica, database: Database, known: tuple[Source, int]
) -> None:
    source, eid = known
    async with connected(database.owner_url) as other, other.transaction():
        await other.execute(
            "select from texera_db.workflow_executions where eid = $1 for update", eid
        )

        assert await apply_batch(central, source, 2, source.update(eid, name="n")) == ["deferred"]


async def test_a_resend_gets_the_stored_answer_and_a_stray_batch_changes_nothing(
    central: Replica, known: tuple[Source, int], owner_connection: Connection
) -> None:
    source, eid = known
    batch = source.batch(2, source.update(eid, name="second"))
    first = await central.batches.apply(source.source_id, batch)

    assert await central.batches.apply(source.source_id, batch) == first
    for number in (2, 4):
        with pytest.raises(BatchOutOfStep):
            await apply_batch(central, source, number, source.update(eid, name="stray"))
    assert (await run(owner_connection, eid))["name"] == "second"
    assert at_once(central) == 1


async def test_two_replicas_with_one_batch_apply_it_once(
    central: Replica, database: Database, known: tuple[Source, int], owner_connection: Connection
) -> None:
    source, eid = known
    async with replica(database) as second:
        assert await apply_batch(second, source, 2, source.update(eid, name="n2")) == ["applied"]
        for number in range(3, 13):
            batch = source.batch(number, source.update(eid, name=f"n{number}"))
            responses = await asyncio.gather(
                *(one.batches.apply(source.source_id, batch) for one in (central, second))
            )
            assert responses[0] == responses[1]
            assert outcomes(responses[0]) in (["applied"], ["deferred"])


async def test_a_row_that_comes_between_snapshot_and_lock_undoes_it(
    central: Replica, database: Database, known: tuple[Source, int], owner_connection: Connection
) -> None:
    """The statement has its snapshot and waits for the cursor while another URI is stored."""
    source, eid = known
    async with connected(database.superuser_url) as holder:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("select from cu_metadata.cursors for update")
        batch = asyncio.create_task(apply_batch(central, source, 2, *ordinary(source, eid)))
        await until_blocking(holder)
        await another_uri(owner_connection, eid)
        await transaction.rollback()

    assert await batch == ["applied", "uri-conflict", "applied", "applied", "applied"]
    (row,) = (await stored(owner_connection, eid))["operator_port_executions"]
    assert row["result_uri"] == OTHER_URI
    assert at_once(central) == 0


@pytest.mark.parametrize(
    ("change", "outcome"), [(revoked, "binding-revoked"), (demoted, "user-demoted")]
)
async def test_a_take_over_or_demotion_between_snapshot_and_lock_refuses_the_batch(
    central: Replica,
    database: Database,
    known: tuple[Source, int],
    owner_connection: Connection,
    change: Callable[[Connection, int], Awaitable[None]],
    outcome: str,
) -> None:
    """The statement has its snapshot and waits for the cursor while the change commits."""
    source, eid = known
    async with connected(database.superuser_url) as holder:
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("select from cu_metadata.cursors for update")
        end = source.update(eid, status="COMPLETED")
        batch = asyncio.create_task(apply_batch(central, source, 2, end))
        await until_blocking(holder)
        await change(owner_connection, eid)
        await transaction.rollback()

    assert await batch == [outcome]
    assert (await run(owner_connection, eid))["status"] == 0
    assert at_once(central) == 0


async def test_a_value_that_the_schema_cannot_hold_is_refused_alone(
    central: Replica, known: tuple[Source, int], owner_connection: Connection
) -> None:
    source, eid = known
    await owner_connection.execute(
        "alter table texera_db.workflow_executions alter runtime_stats_size type int"
    )
    entries = [
        source.update(eid, status="RUNNING"),
        source.update(eid, runtime_stats_bytes=3_000_000_000),
    ]

    assert await apply_batch(central, source, 2, *entries) == ["applied", "value-out-of-range"]
    assert at_once(central) == 0


async def test_what_is_forgotten_costs_only_a_slower_batch(
    database: Database, owner_connection: Connection
) -> None:
    source = Source()
    ids = await add_runs(owner_connection, 5)

    async with replica(database, max_cached=2) as forgetful:
        for number in range(1, 7):
            entries = [source.update(eid, name=f"n{number}") for eid in ids]
            assert set(await apply_batch(forgetful, source, number, *entries)) == {"applied"}

        assert at_once(forgetful) == 0


@pytest.mark.parametrize("is_optimistic", [True, False])
async def test_the_end_of_a_reopened_orphan_is_final_both_ways(
    central: Replica,
    known: tuple[Source, int],
    owner_connection: Connection,
    is_optimistic: bool,
) -> None:
    """The closer ended it and an operator reopened it by SQL: the provisional end is stored."""
    source, eid = known
    await owner_connection.execute(
        """
        insert into cu_metadata.terminal_statuses (execution_id, status, provisional, reason)
        values ($1, 4, true, 'lease-lapsed')
        """,
        eid,
    )
    entries = [source.update(eid, status="COMPLETED")]
    if not is_optimistic:  # what a deletion returns cannot be assumed
        entries.append(source.entry("delete_uris", eid))

    assert set(await apply_batch(central, source, 2, *entries)) == {"applied"}

    assert at_once(central) == is_optimistic
    (ending,) = (await stored(owner_connection, eid))["terminal_statuses"]
    assert ending == (3, source.source_id, False, None)
    failed = source.update(eid, status="FAILED")
    assert await apply_batch(central, source, 3, failed) == ["status-conflict"]
