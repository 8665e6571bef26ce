"""Guards that keep the orphan closer from failing a healthy fleet that cannot reach central."""

from collections.abc import AsyncIterator

import pytest

from central.api.leases import LEASES
from central.problems import KeysUnavailable
from dev.world import WORLD
from tests.databases import Database
from tests.integration.central.batching import (
    Connection,
)
from tests.integration.central.central_fixtures import Sidecar
from tests.integration.central.lease_fixtures import (
    LEASE_S,
    Replica,
    add_leased,
    advance,
    replica,
    serve_for,
    statuses,
)


@pytest.fixture
async def central(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as central:
        yield central


async def test_outage_suspends_closing_for_one_lease(
    central: Replica, owner_connection: Connection
) -> None:
    healthy, dead = await add_leased(owner_connection, 2)
    await serve_for(owner_connection, central, 3 * LEASE_S)
    await central.renew("source-a", [healthy, dead])
    await advance(owner_connection, 2 * LEASE_S)  # nobody serves

    at_return = await central.run_once()
    await serve_for(owner_connection, central, LEASE_S / 2)
    await central.renew("source-a", [healthy])
    soon_after = await central.run_once()
    await serve_for(owner_connection, central, LEASE_S / 2 + 1)
    later = await central.run_once()

    assert (at_return, soon_after, later) == (0, 0, 1)
    assert await statuses(owner_connection, [healthy, dead]) == [1, 4]


async def test_heartbeat_of_another_replica_prevents_an_outage(
    central: Replica, database: Database, owner_connection: Connection
) -> None:
    (dead,) = await add_leased(owner_connection, 1)
    await central.closer.heartbeat()
    async with replica(database) as other:
        await serve_for(owner_connection, other, LEASE_S + 10)

    assert await central.run_once() == 1

    assert await statuses(owner_connection, [dead]) == [4]


async def test_failed_renewal_in_one_replica_stops_all_closers(
    central: Replica, database: Database, owner_connection: Connection
) -> None:
    (silent,) = await add_leased(owner_connection, 1)
    async with replica(database) as other:
        await serve_for(owner_connection, central, LEASE_S + 10)
        other.leases.availability.record_failure("source-a")
        await other.closer.heartbeat()

        withheld = await central.run_once()
        await serve_for(owner_connection, central, LEASE_S + 1)
        at_last = await central.run_once()

    assert (withheld, at_last) == (0, 1)
    assert await statuses(owner_connection, [silent]) == [4]


async def test_jump_of_the_database_clock_counts_as_outage(
    central: Replica, owner_connection: Connection
) -> None:
    ids = await add_leased(owner_connection, 2)
    await serve_for(owner_connection, central, 3 * LEASE_S)
    await central.renew("source-a", ids)

    await advance(owner_connection, 3600)  # forward: every lease looks lapsed
    forward = await central.run_once()
    await central.renew("source-a", ids)
    await serve_for(owner_connection, central, LEASE_S / 2)
    await advance(owner_connection, -3600)  # and back
    backward = await central.closer.heartbeat()

    assert (forward, backward) == (0, 0)
    assert await statuses(owner_connection, ids) == [1, 1]


@pytest.mark.parametrize(
    ("held", "lapsed", "closed"),
    [(0, 3, 3), (0, 4, 0), (11, 3, 3), (12, 4, 0), (16, 4, 4), (400, 101, 0), (404, 101, 101)],
)
async def test_more_than_a_fifth_lapsed_is_withheld(
    central: Replica, owner_connection: Connection, held: int, lapsed: int, closed: int
) -> None:
    silent = await add_leased(owner_connection, lapsed)
    healthy = await add_leased(owner_connection, held, source_id="source-b")
    await serve_for(owner_connection, central, LEASE_S + 10)
    await central.renew("source-b", healthy)

    assert await central.run_once() == closed

    assert await statuses(owner_connection, silent) == [4 if closed else 1] * lapsed
    assert await statuses(owner_connection, healthy) == [1] * held
    assert central.counted("central_orphans_withheld") == (0 if closed else lapsed)


async def test_closing_resumes_when_fewer_leases_are_lapsed(
    central: Replica, owner_connection: Connection
) -> None:
    ids = await add_leased(owner_connection, 10)
    await serve_for(owner_connection, central, LEASE_S + 10)
    withheld = await central.run_once()
    withheld_count = central.counted("central_orphans_withheld")

    await central.renew("source-a", ids[2:])
    closed = await central.run_once()

    assert (withheld, withheld_count) == (0, 10)
    assert (closed, central.counted("central_orphans_withheld")) == (2, 0)


async def test_network_partition_closes_nothing_though_leases_lapse_in_turn(
    central: Replica, owner_connection: Connection
) -> None:
    """Renewals are spread over their period, and so are the lapses: the first tenth is not few."""
    sidecars = [
        await add_leased(owner_connection, 5, source_id=f"source-{number}") for number in range(20)
    ]
    await serve_for(owner_connection, central, LEASE_S)
    for number, runs in enumerate(sidecars):  # the last renewals before the cut, one a second
        await central.renew(f"source-{number}", runs)
        await serve_for(owner_connection, central, 1)

    await serve_for(owner_connection, central, LEASE_S - 20)
    closed, held = 0, []
    for _ in range(30):
        closed += await central.run_once()
        held.append(central.counted("central_orphans_withheld"))
        await serve_for(owner_connection, central, 1)

    assert closed == 0
    assert held[0] <= 5  # it began while only few had lapsed
    assert held[-1] == 100


async def test_runs_of_a_terminated_unit_about_to_lapse_do_not_hold_back_other_orphans(
    central: Replica, owner_connection: Connection
) -> None:
    """That a unit was terminated explains the silence of its sidecar."""
    terminated = await add_leased(
        owner_connection, 40, source_id="source-b", unit_id=WORLD.other_computing_unit_id
    )
    silent = await add_leased(owner_connection, 2)
    await serve_for(owner_connection, central, LEASE_S / 2)
    await central.renew("source-b", terminated)
    await owner_connection.execute(
        "update texera_db.workflow_computing_unit set terminate_time = now() at time zone 'utc'"
        " where cuid = $1",
        WORLD.other_computing_unit_id,
    )
    await serve_for(owner_connection, central, LEASE_S / 2 + 10)

    assert await central.run_once() == 2

    assert await statuses(owner_connection, silent) == [4, 4]


async def test_process_paused_between_heartbeat_and_pass_closes_nothing(
    central: Replica, owner_connection: Connection
) -> None:
    """A paused machine: what it knew of the service's continuity is as old as the leases."""
    ids = await add_leased(owner_connection, 2)
    await serve_for(owner_connection, central, 2 * LEASE_S)
    await central.renew("source-a", ids)
    uninterrupted_s = await central.closer.heartbeat()
    assert uninterrupted_s is not None

    await advance(owner_connection, 600)
    closed = await central.closer.run_once(uninterrupted_s)

    assert closed == 0
    assert await statuses(owner_connection, ids) == [1, 1]


async def test_outage_during_a_pass_ends_the_pass(
    central: Replica, owner_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await add_leased(owner_connection, 2)
    await serve_for(owner_connection, central, LEASE_S + 10)
    orphans = central.closer._orphans
    scan = orphans.scan

    async def scan_then_fail_renewal(min_suspicious: int, max_fraction: int) -> object:
        found = await scan(min_suspicious, max_fraction)
        central.leases.availability.record_failure("source-a")
        await central.closer.heartbeat()
        return found

    monkeypatch.setattr(orphans, "scan", scan_then_fail_renewal)

    assert await central.run_once() == 0

    assert await statuses(owner_connection, ids) == [1, 1]


@pytest.mark.parametrize(
    "failure",
    [
        KeysUnavailable("the cluster's key set cannot be fetched", retry_after_s=1),
        RuntimeError("a bug"),
    ],
    ids=["keys", "bug"],
)
async def test_any_5xx_of_a_renewal_counts_as_outage(
    sidecar: Sidecar,
    owner_connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
) -> None:
    leases = sidecar.client.app[LEASES]
    await sidecar.create()
    await leases.availability.heartbeat()
    await advance(owner_connection, 10)

    async def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(leases, "renew", fail)
    reply = await sidecar.call("POST", "/v1/lease-renewals", {"execution_ids": [1]})

    assert reply.status >= 500
    assert await leases.availability.heartbeat() < 5


async def test_4xx_of_a_renewal_is_no_outage(
    sidecar: Sidecar, owner_connection: Connection
) -> None:
    """Else anybody could keep the closer from its work."""
    leases = sidecar.client.app[LEASES]
    await leases.availability.heartbeat()
    await advance(owner_connection, 10)

    replies = [
        await sidecar.call("POST", "/v1/lease-renewals", {"execution_ids": [1]}, is_signed=False),
        await sidecar.call("POST", "/v1/lease-renewals", {"execution_ids": "all"}),
        await sidecar.call(
            "POST", "/v1/lease-renewals", {"execution_ids": [WORLD.stuck_execution_id]}
        ),
    ]

    assert [reply.status for reply in replies] == [401, 400, 200]
    assert await leases.availability.heartbeat() > 9


CREATE_TRIGGER = """
create function public.fail() returns trigger language plpgsql as $$
begin
    raise exception 'not this one';
end $$;
create trigger fail before update of status on texera_db.workflow_executions
for each row when (old.eid = any (array{ids})) execute function public.fail();
"""
CREATE_DEFERRED_TRIGGER = CREATE_TRIGGER.replace(
    "create trigger fail before update of status on texera_db.workflow_executions\n",
    "create constraint trigger fail after update of status on texera_db.workflow_executions\n"
    "deferrable initially deferred ",
)


@pytest.mark.parametrize("trigger", [CREATE_TRIGGER, CREATE_DEFERRED_TRIGGER])
async def test_orphans_that_cannot_be_closed_do_not_count_as_unexplained(
    central: Replica,
    owner_connection: Connection,
    trigger: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They lapse one after the other, over weeks; more than three must not end all closing."""
    failing = await add_leased(owner_connection, 6)
    await owner_connection.execute(trigger.format(ids=failing))
    for number in range(len(failing)):
        await serve_for(owner_connection, central, LEASE_S + 1)
        await central.renew("source-a", failing[number + 1 :])
        await central.run_once()

    lapsed = await add_leased(owner_connection, 3, source_id="source-b")
    await serve_for(owner_connection, central, LEASE_S + 1)

    assert await central.run_once() == 3
    assert await statuses(owner_connection, [*failing, *lapsed]) == [1] * 6 + [4] * 3
    assert central.counted("central_unclosable_orphans") == 6
    assert central.counted("central_orphans_withheld") == 0
    named = [r.fields["execution_id"] for r in caplog.records if "fails its row" in r.message]  # type: ignore[attr-defined]
    assert sorted(named) == failing  # once each, however many passes try them


async def test_orphans_that_cannot_be_closed_do_not_make_a_partition_look_small(
    central: Replica, owner_connection: Connection
) -> None:
    await add_leased(owner_connection, 40)
    await owner_connection.execute(
        "update cu_metadata.leases set close_failed_at = now(), expires_at = now()"
    )
    healthy = await add_leased(owner_connection, 5, source_id="source-b")

    await serve_for(owner_connection, central, LEASE_S + 1)

    assert await central.run_once() == 0
    assert await statuses(owner_connection, healthy) == [1] * 5
    assert central.counted("central_orphans_withheld") == 5


async def test_orphan_closes_once_its_row_no_longer_fails(
    central: Replica, owner_connection: Connection
) -> None:
    (failing,) = await add_leased(owner_connection, 1)
    await owner_connection.execute(CREATE_TRIGGER.format(ids=[failing]))
    await serve_for(owner_connection, central, LEASE_S + 1)
    closed_before = await central.run_once()
    await owner_connection.execute("drop trigger fail on texera_db.workflow_executions")

    closed, unclosable = await central.run_once(), central.counted("central_unclosable_orphans")
    await central.run_once()

    assert (closed_before, closed, unclosable) == (0, 1, 1)
    assert central.counted("central_unclosable_orphans") == 0
