"""One bad entry among a hundred: it is refused alone, with its own reason, and audited."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.databases import Database, connected
from tests.integration.central.batching import (
    PORT,
    Connection,
    Replica,
    Source,
    add_runs,
    bind,
    outcomes,
    replica,
    run,
    uris,
)

BAD = 57  # somewhere in the middle


@pytest.fixture
async def central(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as central:
        yield central


async def hundred_with(
    central: Replica, connection: Connection, source: Source, bad: dict[str, Any]
) -> str:
    """The outcome of `bad` between ninety-nine good entries, all of which were applied."""
    ids = await add_runs(connection, 99)
    entries = [source.update(eid, status="RUNNING", name="good") for eid in ids]
    entries.insert(BAD, bad)

    received = outcomes(await central.batches.apply(source.source_id, source.batch(1, *entries)))

    names = await connection.fetch(
        "select status, name from texera_db.workflow_executions where eid = any ($1)", ids
    )
    assert [tuple(row) for row in names] == [(1, "good")] * 99
    assert received.pop(BAD) != "applied"
    assert received == ["applied"] * 99
    return outcomes(await central.batches.apply(source.source_id, source.batch(1, *entries)))[BAD]


@pytest.mark.parametrize(
    ("op", "fields", "slug"),
    [
        ("fly", {}, "unknown-operation"),
        ("update_execution", {"status": "DONE"}, "invalid-request"),
        ("update_execution", {"wings": 2}, "invalid-request"),
        ("update_execution", {"result": "a\x00b"}, "invalid-request"),
        ("update_execution", {"name": "x" * 129}, "invalid-request"),
        ("put_port_result", {"global_port_id": "p" * 201, "result_uri": "u"}, "invalid-request"),
        ("put_port_result", {"global_port_id": PORT, "result_uri": "vfs:///x"}, "uri-mismatch"),
        (
            "set_port_result_bytes",
            {"global_port_id": PORT, "result_bytes": 1},
            "port-result-not-found",
        ),
        ("set_console_bytes", {"operator_id": "op", "bytes": 1}, "console-not-found"),
    ],
)
async def test_an_entry_that_is_wrong_is_refused_alone(
    op: str, fields: dict[str, Any], slug: str, central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)

    bad = source.entry(op, eid, **fields)

    assert await hundred_with(central, owner_connection, source, bad) == slug


async def test_a_run_that_is_gone_is_refused_alone(
    central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    await owner_connection.execute("delete from texera_db.workflow_executions where eid = $1", eid)

    bad = source.update(eid, status="COMPLETED")

    assert await hundred_with(central, owner_connection, source, bad) == "execution-not-found"


async def test_a_size_that_an_int_column_cannot_hold_is_refused_alone(
    int_sizes_database: Database,
) -> None:
    source = Source()
    async with (
        replica(int_sizes_database) as central,
        connected(int_sizes_database.owner_url) as connection,
    ):
        (eid,) = await add_runs(connection, 1)
        port = source.entry(
            "put_port_result",
            eid,
            global_port_id=PORT,
            result_uri=uris(eid).result_uri(PORT),
            result_bytes=2**31 - 1,
        )
        await central.batches.apply(source.source_id, Source(epoch="b" * 32).batch(1, port))
        too_large = source.entry(
            "set_port_result_bytes", eid, global_port_id=PORT, result_bytes=2**31
        )

        slug = await hundred_with(central, connection, source, too_large)

        assert slug == "value-out-of-range"
        stored = await connection.fetchval(
            "select result_size from texera_db.operator_port_executions"
            " where workflow_execution_id = $1",
            eid,
        )
        assert stored == 2**31 - 1


async def test_what_a_constraint_of_the_database_forbids_is_refused_alone_and_named(
    central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    await owner_connection.execute(
        "alter table texera_db.workflow_executions"
        " add constraint polite check (name <> 'forbidden')"
    )

    bad = source.update(eid, name="forbidden", status="RUNNING")

    assert await hundred_with(central, owner_connection, source, bad) == "value-out-of-range"
    assert (await run(owner_connection, eid))["status"] == 0
    (audited,) = await owner_connection.fetch("select * from cu_metadata.refusals")
    assert "(polite)" in audited["detail"]


async def test_a_row_deleted_during_the_batch_is_refused_as_gone(
    central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1)
    await owner_connection.execute(
        """
        create function public.vanish() returns trigger language plpgsql as $$
        begin raise foreign_key_violation; end $$;
        create trigger vanish before insert on texera_db.operator_executions
        for each row execute function public.vanish();
        """
    )

    bad = source.entry("put_console", eid, operator_id="op", uri=uris(eid).console_uri("op"))

    assert await hundred_with(central, owner_connection, source, bad) == "execution-not-found"


async def test_entries_on_both_sides_of_a_bad_value_are_applied_in_order(
    int_sizes_database: Database,
) -> None:
    source = Source()
    async with (
        replica(int_sizes_database) as central,
        connected(int_sizes_database.owner_url) as connection,
    ):
        (eid,) = await add_runs(connection, 1)
        response = await central.batches.apply(
            source.source_id,
            source.batch(
                1,
                source.update(eid, status="RUNNING", runtime_stats_bytes=5),
                source.update(eid, status="KILLED", runtime_stats_bytes=2**40),
                source.update(eid, status="FAILED", name="after"),
                source.update(eid, status="COMPLETED"),
            ),
        )

        assert outcomes(response) == ["applied", "value-out-of-range", "applied", "status-conflict"]
        row = await run(connection, eid)
        assert (row["status"], row["runtime_stats_size"], row["name"]) == (4, 5, "after")


async def test_refusals_are_audited_but_not_what_is_late(
    central: Replica, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_runs(owner_connection, 1, status=3)
    entries = [
        source.update(eid, status="RUNNING"),
        source.update(eid, status="FAILED"),
        source.entry("f\x00y" * 40, 2**40),
    ]

    received = outcomes(await central.batches.apply(source.source_id, source.batch(1, *entries)))

    assert received == ["late", "status-conflict", "unknown-operation"]
    audited = await owner_connection.fetch(
        "select source_id, user_id, execution_id, op, slug from cu_metadata.refusals order by id"
    )
    conflict, unknown = (tuple(row) for row in audited)
    assert conflict == ("source-a", 1, eid, "update_execution", "status-conflict")
    assert unknown[2:] == (None, "'f\\x00y" + unknown[3][7:], "unknown-operation")
    assert central.counted("central_refusals_total", slug="late") == 1


async def test_the_audit_takes_a_hundred_refusals_per_source_and_hour(
    central: Replica, owner_connection: Connection
) -> None:
    (eid,) = await add_runs(owner_connection, 1)
    await bind(owner_connection, "source-b", [])
    counts = []
    for source in (Source(), Source("source-b")):
        for number in (1, 2, 3):
            entries = [source.entry("fly", eid) for _ in range(60)]
            await central.batches.apply(source.source_id, source.batch(number, *entries))
            counts.append(
                await owner_connection.fetchval("select count(*) from cu_metadata.refusals")
            )

    await owner_connection.execute(
        "update cu_metadata.refusals set refused_at = refused_at - interval '61 minutes'"
    )
    source = Source(epoch="b" * 32)
    await central.batches.apply(source.source_id, source.batch(1, source.entry("fly", eid)))
    counts.append(await owner_connection.fetchval("select count(*) from cu_metadata.refusals"))

    assert counts == [60, 100, 100, 160, 200, 200, 201]
