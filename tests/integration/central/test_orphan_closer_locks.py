"""Several closers, renewals and writers at once: nobody waits, and nothing is done twice."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from central.jobs.orphan_closer import CHUNK
from tests.databases import Database, connected
from tests.integration.central.batching import (
    Connection,
)
from tests.integration.central.lease_fixtures import (
    LEASE_S,
    Replica,
    add_leased,
    replica,
    serve_for,
    statuses,
)


@pytest.fixture
async def central(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as central:
        yield central


async def test_two_closers_close_each_run_once(
    database: Database, owner_connection: Connection
) -> None:
    ids = await add_leased(owner_connection, 3 * CHUNK)
    healthy = await add_leased(owner_connection, 15 * CHUNK, source_id="source-b")
    await owner_connection.execute(
        """
        create table public.closed (eid int);
        create function public.note() returns trigger language plpgsql security definer as $$
        begin insert into public.closed values (new.eid); return new; end $$;
        create trigger note after update on texera_db.workflow_executions
        for each row when (new.status = 4 and old.status <> 4) execute function public.note();
        """
    )
    async with replica(database) as one, replica(database) as two, replica(database) as three:
        await serve_for(owner_connection, one, LEASE_S + 10)
        await one.renew("source-b", healthy)

        counts = [0]
        while any(counts) or counts == [0]:
            counts = list(
                await asyncio.gather(*(central.run_once() for central in (one, two, three)))
            )

    closed = await owner_connection.fetch("select eid from public.closed order by eid")
    assert [row["eid"] for row in closed] == ids


async def test_lock_of_another_closer_skips_the_pass(
    central: Replica, database: Database, owner_connection: Connection
) -> None:
    await add_leased(owner_connection, 1)
    await serve_for(owner_connection, central, LEASE_S + 10)

    async with connected(database.central_url) as other:
        await other.execute("begin; select pg_advisory_xact_lock(7080003)")
        meanwhile = await central.run_once()
        await other.execute("rollback")

    assert (meanwhile, await central.run_once()) == (0, 1)
    assert central.counted("central_closer_passes_total", outcome="locked") == 1


@pytest.mark.parametrize(
    ("table", "key"),
    [("cu_metadata.leases", "execution_id"), ("texera_db.workflow_executions", "eid")],
)
async def test_locked_rows_are_skipped_and_closed_by_a_later_pass(
    central: Replica, database: Database, owner_connection: Connection, table: str, key: str
) -> None:
    locked, free = await add_leased(owner_connection, 2)
    await serve_for(owner_connection, central, LEASE_S + 10)

    async with connected(database.owner_url) as other:
        await other.execute(f"begin; select from {table} where {key} = {locked} for update")
        first = await central.run_once()
        await other.execute("rollback")
    second = await central.run_once()

    assert (first, second) == (1, 1)
    assert await statuses(owner_connection, [locked, free]) == [4, 4]


async def test_renewal_during_a_pass_keeps_the_run_open(
    central: Replica, owner_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    (eid,) = await add_leased(owner_connection, 1)
    await serve_for(owner_connection, central, LEASE_S + 10)
    orphans = central.closer._orphans
    scan = orphans.scan

    async def scan_and_be_overtaken(min_suspicious: int, max_lapsed_fraction: int) -> object:
        found = await scan(min_suspicious, max_lapsed_fraction)
        await central.renew("source-a", [eid])
        return found

    monkeypatch.setattr(orphans, "scan", scan_and_be_overtaken)

    assert await central.run_once() == 0

    assert await statuses(owner_connection, [eid]) == [1]


async def test_terminal_status_during_a_pass_is_kept(
    central: Replica, owner_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Texera's own SQL, which knows of no lease."""
    (eid,) = await add_leased(owner_connection, 1)
    await serve_for(owner_connection, central, LEASE_S + 10)
    orphans = central.closer._orphans
    scan = orphans.scan

    async def scan_and_be_overtaken(min_suspicious: int, max_lapsed_fraction: int) -> object:
        found = await scan(min_suspicious, max_lapsed_fraction)
        await owner_connection.execute(
            "update texera_db.workflow_executions set status = 3 where eid = $1", eid
        )
        return found

    monkeypatch.setattr(orphans, "scan", scan_and_be_overtaken)

    assert await central.run_once() == 0

    assert await statuses(owner_connection, [eid]) == [3]
