"""What a batch does to rows: columns, times, endings, registries."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.databases import Database
from tests.integration.central.batching import (
    PORT,
    Connection,
    Replica,
    Source,
    add_runs,
    apply_batch,
    bind,
    outcomes,
    replica,
    run,
    uris,
)


@pytest.fixture
async def central(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as central:
        yield central


async def test_every_column_is_written_and_no_other(
    central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    stats_uri = uris(eid).runtime_stats_uri()

    await apply_batch(central, source, 1, source.update(eid, name="first", log_location="/log"))
    before = await run(owner_connection, eid)
    await apply_batch(
        central,
        source,
        2,
        source.update(eid, status="paused", result="r", log_location=None, bookmarked=True),
        source.update(eid, runtime_stats_uri=stats_uri, runtime_stats_bytes=2**40),
    )
    after = await run(owner_connection, eid)

    assert (before["name"], before["log_location"], before["status"]) == ("first", "/log", 0)
    assert before["last_update_time"] is None
    assert (after["name"], after["log_location"], after["status"]) == ("first", None, 2)
    assert (after["result"], after["bookmarked"]) == ("r", True)
    assert (after["runtime_stats_uri"], after["runtime_stats_size"]) == (stats_uri, 2**40)
    assert after["starting_time"] == before["starting_time"]


async def test_the_time_of_a_status_is_now_minus_its_age_and_never_moves_back(
    central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    hour, minute = 3_600_000, 60_000

    await apply_batch(central, source, 1, source.update(eid, status="RUNNING", age_ms=hour))
    first = await run(owner_connection, eid)
    await apply_batch(central, source, 2, source.update(eid, status="PAUSED", age_ms=2 * hour))
    older = await run(owner_connection, eid)
    await apply_batch(central, source, 3, source.update(eid, status="COMPLETED", age_ms=minute))
    last = await run(owner_connection, eid)

    assert timedelta(hours=1) <= first["age"] < timedelta(hours=1, seconds=30)
    assert (older["status"], older["last_update_time"]) == (2, first["last_update_time"])
    assert timedelta(minutes=1) <= last["age"] < timedelta(minutes=1, seconds=30)


async def test_who_ended_a_run_is_remembered_from_batch_to_batch(
    central: Replica, owner_connection: Connection
) -> None:
    source, other = Source(), Source("source-b")
    mine, theirs = await add_runs(owner_connection, 2)
    await apply_batch(
        central, source, 1, *(source.update(eid, status="KILLED") for eid in (mine, theirs))
    )
    await owner_connection.execute(
        "update cu_metadata.bindings set revoked_at = now() where execution_id = $1", theirs
    )
    await bind(owner_connection, other.source_id, [theirs])
    await owner_connection.execute(
        "update cu_metadata.bindings set may_set_status = source_id = $2 where execution_id = $1",
        theirs,
        other.source_id,
    )

    assert await apply_batch(central, source, 2, source.update(mine, status="COMPLETED")) == [
        "applied"
    ]
    assert await apply_batch(central, other, 1, other.update(theirs, status="COMPLETED")) == [
        "status-conflict"
    ]
    assert (await run(owner_connection, mine))["status"] == 3
    assert (await run(owner_connection, theirs))["status"] == 5


async def test_the_closers_failed_is_replaced_once(
    central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1, status=4)
    await owner_connection.execute(
        "insert into cu_metadata.terminal_statuses (execution_id, status, provisional, reason)"
        " values ($1, 4, true, 'lease-lapsed')",
        eid,
    )

    late = await apply_batch(central, source, 1, source.update(eid, status="RUNNING"))
    replaced = await apply_batch(central, source, 2, source.update(eid, status="COMPLETED"))
    conflict = await apply_batch(central, source, 3, source.update(eid, status="FAILED"))

    assert late + replaced + conflict == ["late", "applied", "status-conflict"]
    ending = await owner_connection.fetchrow(
        "select status, source_id, provisional, reason from cu_metadata.terminal_statuses"
        " where execution_id = $1",
        eid,
    )
    assert ending is not None
    assert tuple(ending) == (3, "source-a", False, None)


async def test_an_ending_of_another_status_than_the_rows_does_not_count(
    central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1, status=3)
    await owner_connection.execute(
        "insert into cu_metadata.terminal_statuses (execution_id, status, provisional)"
        " values ($1, 4, true)",
        eid,
    )

    assert await apply_batch(central, source, 1, source.update(eid, status="FAILED")) == [
        "status-conflict"
    ]


async def test_registries_are_put_sized_answered_on_delete_and_put_again(
    central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    put = source.entry(
        "put_port_result", eid, global_port_id=PORT, result_uri=uris(eid).result_uri(PORT)
    )
    console = source.entry(
        "put_console", eid, operator_id="op", uri=uris(eid).console_uri("op"), bytes=3
    )
    resize = source.entry("set_port_result_bytes", eid, global_port_id=PORT, result_bytes=2**40)
    delete = source.entry("delete_uris", eid)

    assert await apply_batch(central, source, 1, put, console, resize, put) == ["applied"] * 4
    stored = await registries(owner_connection, eid)
    response = await central.batches.apply(
        source.source_id, source.batch(2, delete, resize, console, resize, put)
    )

    assert stored == [
        (PORT, uris(eid).result_uri(PORT), 2**40),
        ("op", uris(eid).console_uri("op"), 3),
    ]
    assert outcomes(response) == [
        "applied",
        "port-result-not-found",
        "applied",
        "port-result-not-found",
        "applied",
    ]
    assert b'"removed":{"results":[{"global_port_id":"(logicalOpId=op' in response
    assert b'"result_bytes":1099511627776}],"console":[{"operator_id":"op"' in response
    assert await registries(owner_connection, eid) == [
        (PORT, uris(eid).result_uri(PORT), 0),
        ("op", uris(eid).console_uri("op"), 3),
    ]
    assert await apply_batch(central, source, 3, delete) == ["applied"]
    assert await registries(owner_connection, eid) == []


async def test_operator_costs_are_replaced(central: Replica, owner_connection: Connection) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    for number, operators in enumerate(({"a": 1.5, "b": 2}, {"a": 1e300}), start=1):
        entry = source.entry("put_operator_costs", eid, operators=operators)
        assert await apply_batch(central, source, number, entry) == ["applied"]

    stored = await owner_connection.fetchval(
        "select operators ->> 'a' from cu_metadata.operator_costs where execution_id = $1", eid
    )
    assert float(stored) == 1e300


async def test_a_warehouse_stands_in_the_uris_of_its_execution(
    central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    await owner_connection.execute("update cu_metadata.bindings set warehouse = 'user-1-w'")
    plain = uris(eid).result_uri(PORT)

    def put(uri: str) -> dict[str, Any]:
        return source.entry("put_port_result", eid, global_port_id=PORT, result_uri=uri)

    result = await apply_batch(
        central, source, 1, put(plain), put(plain.replace("//", "///wh/user-1-w", 1))
    )

    assert result == ["uri-mismatch", "applied"]


async def registries(connection: Connection, execution_id: int) -> list[tuple[Any, ...]]:
    rows: list[asyncpg.Record] = await connection.fetch(
        """
        select global_port_id, result_uri, result_size
        from texera_db.operator_port_executions where workflow_execution_id = $1
        union all
        select operator_id, console_messages_uri, console_messages_size
        from texera_db.operator_executions where workflow_execution_id = $1
        """,
        execution_id,
    )
    return [tuple(row) for row in rows]
