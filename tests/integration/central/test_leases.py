"""Leases: a thousand are renewed by one statement, and a source learns which it has lost."""

from collections.abc import AsyncIterator

import pytest

from central.api.leases import LEASES
from central.store.leases import TOUCH_PERIOD_S
from central.wire.leases import LostReason
from dev.postgres import Cluster
from dev.world import WORLD
from tests.databases import Database, connected
from tests.integration.central.batching import (
    Connection,
    Source,
    add_runs,
    applications,
    apply_batch,
    bind,
    count_applications,
    run,
)
from tests.integration.central.batching import replica as batches_of
from tests.integration.central.central_fixtures import Sidecar
from tests.integration.central.lease_fixtures import (
    LEASE_S,
    Replica,
    add_leased,
    advance,
    lease,
    replica,
    statuses,
)

CLOSED_BY_CENTRAL = """
with closed as (
    insert into cu_metadata.terminal_statuses (execution_id, status, provisional, reason)
    values ({id}, 4, true, 'lease-lapsed')
)
update texera_db.workflow_executions set status = 4 where eid = {id}
"""
UNCOMMITTED = "begin; select from {table} where {key} = {id} for update"


@pytest.fixture
async def central(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as central:
        yield central


async def test_a_thousand_leases_are_renewed_by_one_statement(
    central: Replica, cluster: Cluster, owner_connection: Connection
) -> None:
    ids = await add_leased(owner_connection, 1000)
    await advance(owner_connection, 50)

    assert await central.renew("source-a", ids) == {}

    soonest = await owner_connection.fetchval(
        "select extract(epoch from min(expires_at) - now()) from cu_metadata.leases"
    )
    assert soonest > LEASE_S - 10
    sent = {
        sample.labels["statement"]: sample.value
        for metric in central.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "central_statement_seconds_count" and sample.value
    }
    assert sent == {"renew": 1}


async def test_a_renewal_moves_last_update_time_but_not_each_time(
    central: Replica, owner_connection: Connection
) -> None:
    (eid,) = await add_leased(owner_connection, 1)
    await count_applications(owner_connection)

    for _ in range(3):
        await central.renew("source-a", [eid])
    at_once = await applications(owner_connection)
    await advance(owner_connection, TOUCH_PERIOD_S + 1)
    await central.renew("source-a", [eid])

    moved = await applications(owner_connection)
    assert at_once == [(eid, 1)]
    assert moved.count((eid, 1)) == 3  # the first renewal, `advance`, the last renewal
    assert (await run(owner_connection, eid))["age"].total_seconds() < 10


async def test_lapsed_lease_is_renewed_if_still_held(
    central: Replica, owner_connection: Connection
) -> None:
    (eid,) = await add_leased(owner_connection, 1)
    await advance(owner_connection, 10 * LEASE_S)

    assert await central.renew("source-a", [eid]) == {}

    kept = await lease(owner_connection, eid)
    assert kept is not None
    assert kept["left_s"] > LEASE_S - 10


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (CLOSED_BY_CENTRAL, LostReason.CLOSED),
        (
            "update texera_db.workflow_executions set status = 5 where eid = {id}",
            LostReason.ENDED,
        ),
        (
            "update cu_metadata.bindings set revoked_at = now(), revoked_reason = 'taken-over'",
            LostReason.BOUND_ELSEWHERE,
        ),
        (
            "update cu_metadata.bindings set revoked_at = now(), revoked_reason = 'stolen'",
            LostReason.REVOKED,
        ),
        ("delete from texera_db.workflow_executions where eid = {id}", LostReason.GONE),
        ("delete from cu_metadata.bindings", LostReason.NOT_BOUND),
    ],
)
async def test_lost_lease_returns_its_reason(
    central: Replica, owner_connection: Connection, event: str, reason: LostReason
) -> None:
    (eid,) = await add_leased(owner_connection, 1)
    await advance(owner_connection, 50)
    before = await lease(owner_connection, eid)
    await owner_connection.execute(event.format(id=eid))

    assert await central.renew("source-a", [eid]) == {eid: reason}

    after = await lease(owner_connection, eid)
    assert before is not None
    assert after is not None
    assert after["left_s"] <= before["left_s"]
    assert central.counted("central_lost_leases_total", reason=reason) == 1


async def test_unknown_source_renews_and_learns_nothing(
    central: Replica, owner_connection: Connection
) -> None:
    (eid,) = await add_leased(owner_connection, 1)
    (ended,) = await add_runs(owner_connection, 1, status=3)
    await advance(owner_connection, 50)
    nowhere = 2**31 - 1

    apply_batch = await central.renew("source-z", [eid, ended, nowhere])

    assert apply_batch == dict.fromkeys([eid, ended, nowhere], LostReason.NOT_BOUND)
    kept = await lease(owner_connection, eid)
    assert kept is not None
    assert kept["left_s"] < 45


async def test_pod_renews_runs_of_its_own_unit_only(
    central: Replica, owner_connection: Connection
) -> None:
    here, there = WORLD.computing_unit_id, WORLD.other_computing_unit_id
    (own,) = await add_leased(owner_connection, 1)
    (elsewhere,) = await add_leased(owner_connection, 1, unit_id=there)
    await advance(owner_connection, 50)

    response = await central.leases.renew("source-a", [own, elsewhere], here)

    assert [(lost.execution_id, lost.reason) for lost in response.lost] == [
        (elsewhere, LostReason.NOT_BOUND)
    ]
    left = {eid: await lease(owner_connection, eid) for eid in (own, elsewhere)}
    assert [row is not None and row["left_s"] > 45 for row in left.values()] == [True, False]


async def test_an_open_run_without_a_lease_gets_one(
    central: Replica, owner_connection: Connection
) -> None:
    (eid,) = await add_runs(owner_connection, 1, status=1)

    assert await central.renew("source-a", [eid]) == {}

    assert (await lease(owner_connection, eid)) is not None


@pytest.mark.parametrize(
    ("table", "key"),
    [("cu_metadata.leases", "execution_id"), ("texera_db.workflow_executions", "eid")],
)
async def test_renewal_skips_locked_rows(
    central: Replica, database: Database, owner_connection: Connection, table: str, key: str
) -> None:
    locked, free = await add_leased(owner_connection, 2)
    await advance(owner_connection, 50)

    async with connected(database.owner_url) as other:
        await other.execute(UNCOMMITTED.format(table=table, key=key, id=locked))
        lost = await central.renew("source-a", [locked, free])
        await other.execute("rollback")

    assert lost == {}
    kept = await lease(owner_connection, free)
    assert kept is not None
    assert kept["left_s"] > LEASE_S - 10


async def test_the_end_of_a_run_ends_its_lease(
    sidecar: Sidecar, owner_connection: Connection
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    path = f"/v1/executions/{execution_id}"
    begun = await lease(owner_connection, execution_id)
    await sidecar.call("PATCH", path, {"status": "RUNNING"}, user=WORLD.owner)
    running = await lease(owner_connection, execution_id)
    await sidecar.call("PATCH", path, {"status": "COMPLETED"}, user=WORLD.owner)

    assert begun is not None
    assert running is not None
    assert await lease(owner_connection, execution_id) is None


async def test_terminal_status_in_a_batch_ends_the_lease(
    database: Database, owner_connection: Connection
) -> None:
    source = Source()
    known, ended, other = await add_leased(owner_connection, 3)

    async with batches_of(database) as batches:
        await apply_batch(batches, source, 1, source.update(known, status="RUNNING"))
        ends = [source.update(known, status="COMPLETED")]  # applied as expected
        first = await apply_batch(batches, source, 2, *ends)
        ends = [source.update(ended, status="KILLED"), source.update(ended, status="RUNNING")]
        second = await apply_batch(batches, source, 3, *ends)

    assert (first, second) == (["applied"], ["applied", "late"])
    left = await owner_connection.fetch("select execution_id from cu_metadata.leases")
    assert [row["execution_id"] for row in left] == [other]


async def test_the_route_renews_for_the_source_that_signs(
    sidecar: Sidecar, owner_connection: Connection
) -> None:
    execution_id = (await sidecar.create()).body["execution_id"]
    await bind(owner_connection, "source-x", [WORLD.stuck_execution_id])
    body = {"execution_ids": [execution_id, WORLD.stuck_execution_id]}

    own = await sidecar.call("POST", "/v1/lease-renewals", body)
    others = await sidecar.another().call("POST", "/v1/lease-renewals", body)
    wrong = await sidecar.call("POST", "/v1/lease-renewals", {"execution_ids": [0, "x"]})

    assert own.body["lost"] == [{"execution_id": WORLD.stuck_execution_id, "reason": "not-bound"}]
    assert len(others.body["lost"]) == 2
    assert wrong.outcome == (400, "invalid-request")
    assert await statuses(owner_connection, [execution_id]) == [0]


@pytest.mark.parametrize("is_bound", [True, False])
async def test_failed_renewal_of_a_bound_source_interrupts_renewal_availability(
    sidecar: Sidecar, owner_connection: Connection, is_bound: bool
) -> None:
    if is_bound:
        await sidecar.create()
    availability = sidecar.client.app[LEASES].availability
    await availability.heartbeat()
    await advance(owner_connection, 20)
    served_s = await availability.heartbeat()

    await owner_connection.execute("alter table cu_metadata.leases rename to away")
    reply = await sidecar.call("POST", "/v1/lease-renewals", {"execution_ids": [1]})
    await owner_connection.execute("alter table cu_metadata.away rename to leases")

    assert served_s > 19
    assert reply.outcome == (503, "database-unavailable")
    assert (await availability.heartbeat() == 0) == is_bound
