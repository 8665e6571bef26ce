"""The closer: orphans become FAILED, provisionally; a healthy fleet never does."""

import logging
from collections.abc import AsyncIterator

import pytest

from central.store.orphans import CloseReason
from central.wire.leases import LostReason
from dev.world import WORLD
from tests.databases import Database
from tests.integration.central.batching import (
    Connection,
    Source,
    add_runs,
    apply_batch,
    bind,
    run,
)
from tests.integration.central.batching import (
    replica as batches_of,
)
from tests.integration.central.lease_fixtures import (
    LEASE_S,
    Replica,
    add_leased,
    advance,
    lease,
    reasons,
    replica,
    serve_for,
    statuses,
)


@pytest.fixture
async def central(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as central:
        yield central


async def test_lapsed_lease_closes_the_run_with_a_reason(
    central: Replica, owner_connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    silent, healthy = await add_leased(owner_connection, 2)
    await serve_for(owner_connection, central, LEASE_S - 10)
    await central.renew("source-a", [healthy])
    before = await central.run_once()
    await serve_for(owner_connection, central, 15)

    with caplog.at_level(logging.WARNING):
        closed_count = await central.run_once()

    assert (before, closed_count) == (0, 1)
    assert await statuses(owner_connection, [silent, healthy]) == [4, 1]
    assert await reasons(owner_connection, [silent, healthy]) == {silent: "lease-lapsed"}
    assert await lease(owner_connection, silent) is None
    assert central.counted("central_closed_executions_total", reason="lease-lapsed") == 1
    lines = [getattr(record, "fields", {}) for record in caplog.records]
    assert {"execution_id": silent, "reason": "lease-lapsed"} in lines


async def test_counters_start_at_zero(
    central: Replica,
) -> None:
    """Prometheus sees no increase in a series that begins with its first one."""
    for sample, reasons_ in (
        ("central_closed_executions_total", CloseReason),
        ("central_lost_leases_total", LostReason),
    ):
        shown = [
            central.metrics.registry.get_sample_value(sample, {"reason": str(reason)})
            for reason in reasons_
        ]
        assert shown == [0.0] * len(reasons_)


async def test_terminal_status_of_the_source_replaces_the_closers(
    central: Replica, database: Database, owner_connection: Connection
) -> None:
    source = Source()
    (eid,) = await add_leased(owner_connection, 1)
    await serve_for(owner_connection, central, LEASE_S + 10)
    await central.run_once()

    async with batches_of(database) as batches:
        late = await apply_batch(batches, source, 1, source.update(eid, status="RUNNING"))
        after_late = await statuses(owner_connection, [eid])
        end = await apply_batch(batches, source, 2, source.update(eid, status="COMPLETED"))

    assert (late, after_late) == (["late"], [4])
    assert (end, await statuses(owner_connection, [eid])) == (["applied"], [3])
    assert await reasons(owner_connection, [eid]) == {}


@pytest.mark.parametrize("status", [-1, 0, 1, 2])
async def test_every_open_status_is_closed(
    central: Replica, owner_connection: Connection, status: int
) -> None:
    (eid,) = await add_leased(owner_connection, 1)
    await owner_connection.execute(
        "update texera_db.workflow_executions set status = $1 where eid = $2", status, eid
    )
    await serve_for(owner_connection, central, LEASE_S + 10)

    await central.run_once()

    assert await statuses(owner_connection, [eid]) == [4]
    assert (await run(owner_connection, eid))["age"].total_seconds() < 10


async def test_run_ended_by_others_keeps_its_status_and_loses_its_lease(
    central: Replica, owner_connection: Connection
) -> None:
    killed, gone = await add_leased(owner_connection, 2)
    await owner_connection.execute(
        "update texera_db.workflow_executions set status = 5 where eid = $1", killed
    )
    await owner_connection.execute("delete from texera_db.workflow_executions where eid = $1", gone)
    await serve_for(owner_connection, central, LEASE_S + 10)

    assert await central.run_once() == 0

    assert await statuses(owner_connection, [killed]) == [5]
    assert await owner_connection.fetchval("select count(*) from cu_metadata.leases") == 0


async def test_unbound_runs_are_left_open(central: Replica, owner_connection: Connection) -> None:
    (unbound,) = await add_runs(owner_connection, 1, source_id=None, status=1)
    await serve_for(owner_connection, central, 3 * LEASE_S)

    assert await central.run_once() == 0

    assert await statuses(owner_connection, [unbound, WORLD.stuck_execution_id]) == [1, 1]


# Units


async def test_terminated_unit_closes_all_its_runs_after_a_lease(
    central: Replica, owner_connection: Connection
) -> None:
    ids = await add_leased(owner_connection, 8)
    others = await add_leased(
        owner_connection, 2, source_id="source-b", unit_id=WORLD.other_computing_unit_id
    )
    await serve_for(owner_connection, central, LEASE_S)
    await owner_connection.execute(
        "update texera_db.workflow_computing_unit set terminate_time = now() at time zone 'utc'"
        " where cuid = $1",
        WORLD.computing_unit_id,
    )
    await central.renew("source-a", ids)
    await central.renew("source-b", others)
    draining = await central.run_once()
    await serve_for(owner_connection, central, LEASE_S + 1)
    await central.renew("source-a", ids)  # a zombie of the pod
    await central.renew("source-b", others)

    closed = await central.run_once()

    assert (draining, closed) == (0, 8)
    assert set((await reasons(owner_connection, ids)).values()) == {"unit-terminated"}
    assert await statuses(owner_connection, others) == [1, 1]


async def test_runs_missed_by_a_boot_are_closed(
    central: Replica, owner_connection: Connection
) -> None:
    older, old_boot, new_boot, later = await add_leased(owner_connection, 4)
    await advance(owner_connection, 10)
    await owner_connection.execute(
        "insert into cu_metadata.boots (computing_unit_id, boot_id, source_id, superseded_at)"
        " values ($1, 'old', 's', now()), ($1, 'new', 's', null)",
        WORLD.computing_unit_id,
    )
    for eid, boot in ((old_boot, "old"), (new_boot, "new")):
        await owner_connection.execute(
            "update cu_metadata.bindings set boot_id = $1 where execution_id = $2", boot, eid
        )
    await owner_connection.execute(
        "update cu_metadata.bindings set created_at = now() where execution_id = $1", later
    )

    assert await central.run_once() == 2

    assert await reasons(owner_connection, [older, old_boot, new_boot, later]) == dict.fromkeys(
        [older, old_boot], "superseded-boot"
    )


async def test_a_revoked_binding_cannot_keep_its_run_open(
    central: Replica, owner_connection: Connection
) -> None:
    (eid,) = await add_leased(owner_connection, 1)
    await owner_connection.execute(
        "update cu_metadata.bindings set revoked_at = now(), revoked_reason = 'stolen'"
    )
    await serve_for(owner_connection, central, LEASE_S - 10)
    await central.renew("source-a", [eid])
    await serve_for(owner_connection, central, 15)

    assert await central.run_once() == 1

    assert await reasons(owner_connection, [eid]) == {eid: "lease-lapsed"}


async def test_orphans_of_one_unit_change_no_other_unit(
    central: Replica, owner_connection: Connection
) -> None:
    units = await owner_connection.fetch(
        "insert into texera_db.workflow_computing_unit (uid, name) select $1, 'unit ' || n"
        " from generate_series(1, 100) n returning cuid",
        WORLD.stranger.user_id,
    )
    for unit in units:
        source = f"source-{unit['cuid']}"
        await add_leased(owner_connection, 1, source_id=source, unit_id=unit["cuid"])
        (unbound,) = await add_runs(owner_connection, 1, source_id=None, status=1)
        await bind(owner_connection, source, [unbound])
        await owner_connection.execute(
            "update texera_db.workflow_executions set cuid = $1 where eid = $2",
            unit["cuid"],
            unbound,
        )
    own = await add_leased(owner_connection, 3)
    await serve_for(owner_connection, central, LEASE_S - 5)
    await owner_connection.execute(
        "update cu_metadata.leases set expires_at = now() + interval '1 hour'"
        " where computing_unit_id <> $1",
        WORLD.computing_unit_id,
    )
    await serve_for(owner_connection, central, 10)
    before = await everything_else(owner_connection, own)

    assert await central.run_once() == 3

    assert await everything_else(owner_connection, own) == before


async def everything_else(connection: Connection, own: list[int]) -> list[str]:
    """Every row of other runs in every table that has any, as bytes, and where it lies."""
    rows: list[str] = []
    for table, key in (
        ("texera_db.workflow_executions", "eid"),
        ("cu_metadata.bindings", "execution_id"),
        ("cu_metadata.leases", "execution_id"),
        ("cu_metadata.terminal_statuses", "execution_id"),
    ):
        found = await connection.fetch(
            f"select ctid::text || xmin::text || t::text as row from {table} t"  # noqa: S608
            f" where {key} <> all ($1) order by {key}",
            own,
        )
        rows += [row["row"] for row in found]
    return rows
