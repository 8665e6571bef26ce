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


async def test_two_closers_never_act_twice(
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


async def test_while_another_closer_is_at_work_nothing_is_done(
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
async def test_a_pass_waits_for_nobodys_lock_and_comes_back(
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


async def test_a_renewal_in_the_middle_of_a_pass_saves_its_run(
    central: Replica, owner_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    (eid,) = await add_leased(owner_connection, 1)
    await serve_for(owner_connection, central, LEASE_S + 10)
    orphans = central.closer._orphans
    look = orphans.look

    async def look_and_be_overtaken(few: int, one_in: int) -> object:
        found = await look(few, one_in)
        await central.renew("source-a", [eid])
        return found

    monkeypatch.setattr(orphans, "look", look_and_be_overtaken)

    assert await central.run_once() == 0

    assert await statuses(owner_connection, [eid]) == [1]


async def test_an_end_that_comes_in_the_middle_of_a_pass_stays(
    central: Replica, owner_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Texera's own SQL, which knows of no lease."""
    (eid,) = await add_leased(owner_connection, 1)
    await serve_for(owner_connection, central, LEASE_S + 10)
    orphans = central.closer._orphans
    look = orphans.look

    async def look_and_be_overtaken(few: int, one_in: int) -> object:
        found = await look(few, one_in)
        await owner_connection.execute(
            "update texera_db.workflow_executions set status = 3 where eid = $1", eid
        )
        return found

    monkeypatch.setattr(orphans, "look", look_and_be_overtaken)

    assert await central.run_once() == 0

    assert await statuses(owner_connection, [eid]) == [3]
