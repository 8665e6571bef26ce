"""A sidecar's key is replaced: what it holds moves whole, and the old key is refused."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from central.problems import SourceNotBound, SourceRevoked, SourceSucceeded, SuccessorInUse
from central.store.bindings import BindingFilter, Revocations
from central.store.sources import Sources
from tests.databases import Database, connected
from tests.integration.central.batching import (
    Connection,
    Replica,
    Source,
    add_runs,
    apply_batch,
    outcomes,
    replica,
    run,
)
from tests.integration.central.rows import until_blocking, until_waiting

OLD, NEW = "source-a", "source-b"
STOPS = {
    "an execution's row": "select from texera_db.workflow_executions for update",
    "a cursor's row": "select from cu_metadata.cursors for update",
    "the table of cursors": "lock table cu_metadata.cursors in share mode",
    "the table of bindings": "lock table cu_metadata.bindings in share mode",
}
"""Locks at which a batch or a rotation, or both, stop for a while."""


@pytest.fixture
async def central(database: Database) -> AsyncIterator[Replica]:
    async with replica(database) as central:
        yield central


@pytest.fixture
def sources(central: Replica) -> Sources:
    return Sources(central.database)


@pytest.fixture
def revocations(central: Replica) -> Revocations:
    return Revocations(central.database)


async def test_a_batch_that_is_sent_again_under_the_new_key_gets_the_stored_response(
    central: Replica, sources: Sources, owner_connection: Connection
) -> None:
    source = Source(OLD)
    (eid,) = await add_runs(owner_connection, 1)
    batch = source.batch(1, source.update(eid, status="RUNNING"))
    first = await central.batches.apply(OLD, batch)

    await sources.succeed(OLD, NEW)

    assert await central.batches.apply(NEW, batch) == first
    source.source_id = NEW
    assert await apply_batch(central, source, 2, source.update(eid, status="COMPLETED")) == [
        "applied"
    ]
    assert (await run(owner_connection, eid))["status"] == 3


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_late_batch_of_the_old_key_is_refused_whole_and_names_the_successor(
    number: int, central: Replica, sources: Sources, owner_connection: Connection
) -> None:
    source = Source(OLD)
    (eid,) = await add_runs(owner_connection, 1)
    for earlier in range(1, number):
        await apply_batch(central, source, earlier, source.update(eid, status="RUNNING"))
    await sources.succeed(OLD, NEW)

    batch = source.batch(number, source.update(eid, status="COMPLETED"))
    with pytest.raises(SourceSucceeded) as refused:
        await central.batches.apply(OLD, batch)

    assert refused.value.document()["successor_id"] == NEW
    assert (await run(owner_connection, eid))["status"] != 3
    assert outcomes(await central.batches.apply(NEW, batch)) == ["applied"]
    assert not await owner_connection.fetchval(
        "select count(*) from cu_metadata.cursors where source_id = $1", OLD
    )


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
@pytest.mark.parametrize("rotates_first", [False, True], ids=["batch first", "rotation first"])
@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_batch_that_meets_a_rotation_is_applied_once_under_either_key(
    number: int,
    rotates_first: bool,
    stop: str,
    central: Replica,
    sources: Sources,
    database: Database,
    owner_connection: Connection,
) -> None:
    source = Source(OLD)
    (eid,) = await add_runs(owner_connection, 1)
    for earlier in range(1, number):
        await apply_batch(central, source, earlier, source.update(eid, status="RUNNING"))
    batch = source.batch(number, source.update(eid, name="late"))

    async with connected(database.owner_url) as holder:
        await holder.execute("begin")
        await holder.execute(stop)
        works = [central.batches.apply(OLD, batch), sources.succeed(OLD, NEW)]
        tasks = []
        for work in reversed(works) if rotates_first else works:
            tasks.append(asyncio.create_task(work))
            await asyncio.sleep(0.1)  # to its lock, or to its end
        await holder.execute("commit")
    results = await asyncio.gather(*tasks, return_exceptions=True)
    applied, rotated = reversed(results) if rotates_first else results

    assert rotated is None
    again = await central.batches.apply(NEW, batch)
    assert isinstance(applied, SourceSucceeded) or applied == again
    # A batch that met the locked row deferred its entry; the sidecar sends it in the next one.
    assert outcomes(again) in (["applied"], ["deferred"])
    is_written = (await run(owner_connection, eid))["name"] == "late"
    assert is_written == (outcomes(again) == ["applied"])


async def test_a_source_that_killed_a_run_may_complete_it_under_the_new_key(
    central: Replica, sources: Sources, owner_connection: Connection
) -> None:
    source = Source(OLD)
    (eid,) = await add_runs(owner_connection, 1)
    await apply_batch(central, source, 1, source.update(eid, status="KILLED"))

    await sources.succeed(OLD, NEW)

    source.source_id = NEW
    completed = source.update(eid, status="COMPLETED")
    assert await apply_batch(central, source, 2, completed) == ["applied"]


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_an_end_that_meets_a_rotation_is_the_new_keys(
    number: int,
    central: Replica,
    sources: Sources,
    database: Database,
    owner_connection: Connection,
) -> None:
    source = Source(OLD)
    (eid,) = await add_runs(owner_connection, 1)
    for earlier in range(1, number):
        await apply_batch(central, source, earlier, source.update(eid, status="RUNNING"))
    await owner_connection.execute(
        """
        create function public.wait() returns trigger language plpgsql as $$
        begin
            perform pg_advisory_xact_lock(1);
            return null;
        end $$;
        create trigger wait after insert on cu_metadata.terminal_statuses
        for each row execute function public.wait();
        """
    )

    async with connected(database.owner_url) as holder:
        await holder.execute("select pg_advisory_lock(1)")
        killing = asyncio.create_task(
            apply_batch(central, source, number, source.update(eid, status="KILLED"))
        )
        await until_waiting(owner_connection, 1)
        rotating = asyncio.create_task(sources.succeed(OLD, NEW))
        await until_waiting(owner_connection, 2)
    assert await killing == ["applied"]
    await rotating

    source.source_id = NEW
    completed = source.update(eid, status="COMPLETED")
    assert await apply_batch(central, source, number + 1, completed) == ["applied"]


async def test_a_repeated_rotation_changes_nothing_and_another_successor_is_refused(
    sources: Sources, owner_connection: Connection
) -> None:
    await add_runs(owner_connection, 1)

    await sources.succeed(OLD, NEW)
    await sources.succeed(OLD, NEW)
    with pytest.raises(SourceSucceeded):
        await sources.succeed(OLD, "source-c")

    events = await owner_connection.fetch(
        "select source_id, detail from cu_metadata.audit_events where action = 'rotate'"
    )
    assert [tuple(event) for event in events] == [(OLD, NEW)]


async def test_of_two_rotations_at_once_one_wins(
    sources: Sources, owner_connection: Connection
) -> None:
    await add_runs(owner_connection, 3)

    results = await asyncio.gather(
        *(sources.succeed(OLD, f"new-{n}") for n in range(4)), return_exceptions=True
    )

    assert [type(result) for result in results].count(type(None)) == 1
    assert [type(result) for result in results].count(SourceSucceeded) == 3


async def test_two_keys_that_take_the_same_successor_at_once(
    sources: Sources, owner_connection: Connection
) -> None:
    await add_runs(owner_connection, 1)
    await add_runs(owner_connection, 1, source_id="source-c")

    results = await asyncio.gather(
        sources.succeed(OLD, NEW), sources.succeed("source-c", NEW), return_exceptions=True
    )

    assert {type(result) for result in results} == {type(None), SuccessorInUse}


async def test_the_new_key_must_be_unused(
    central: Replica, sources: Sources, owner_connection: Connection
) -> None:
    (eid,) = await add_runs(owner_connection, 1)
    await add_runs(owner_connection, 1, source_id="source-c")
    unknown = Source("source-d")
    await apply_batch(central, unknown, 1, unknown.update(eid, name="x"))

    for used in (OLD, "source-c", "source-d"):
        with pytest.raises(SuccessorInUse):
            await sources.succeed(OLD, used)
    await sources.succeed(OLD, NEW)
    with pytest.raises(SuccessorInUse):
        await sources.succeed(NEW, OLD)


async def test_a_key_without_an_unrevoked_binding_cannot_rotate(
    sources: Sources, revocations: Revocations, owner_connection: Connection
) -> None:
    await add_runs(owner_connection, 1)
    await revocations.revoke(BindingFilter(source_id=OLD), "stolen")

    for source_id in (OLD, "source-that-nobody-knows"):
        with pytest.raises(SourceNotBound):
            await sources.succeed(source_id, NEW)


async def test_a_revocation_reaches_the_keys_that_came_after(
    central: Replica, sources: Sources, revocations: Revocations, owner_connection: Connection
) -> None:
    (eid,) = await add_runs(owner_connection, 1)
    await sources.succeed(OLD, NEW)
    await sources.succeed(NEW, "source-c")

    revoked = await revocations.revoke(BindingFilter(source_id=OLD), "stolen")

    assert [(binding.execution_id, binding.source_id) for binding in revoked] == [(eid, "source-c")]
    source = Source("source-c")
    assert await apply_batch(central, source, 1, source.update(eid, name="x")) == [
        "binding-revoked"
    ]


@pytest.mark.parametrize("whole_key", [False, True], ids=["its bindings", "the key"])
async def test_a_revocation_that_meets_a_rotation_is_not_outrun(
    whole_key: bool,
    sources: Sources,
    revocations: Revocations,
    database: Database,
    owner_connection: Connection,
) -> None:
    (eid,) = await add_runs(owner_connection, 1)

    async with connected(database.owner_url) as holder:
        await holder.execute("begin")
        await holder.execute(
            "select from cu_metadata.bindings where execution_id = $1 for update", eid
        )
        rotating = asyncio.create_task(sources.succeed(OLD, NEW))
        await until_blocking(holder)
        revoking = asyncio.create_task(
            revocations.revoke_source(OLD, "stolen")
            if whole_key
            else revocations.revoke(BindingFilter(source_id=OLD), "stolen")
        )
        await until_waiting(owner_connection, 2)
        await holder.execute("commit")
    rotated = (await asyncio.gather(rotating, return_exceptions=True))[0]
    await revoking

    assert rotated is None or isinstance(rotated, SourceRevoked)
    unrevoked = "select count(*) from cu_metadata.bindings where revoked_at is null"
    assert await owner_connection.fetchval(unrevoked) == 0
    with pytest.raises(SourceRevoked if whole_key else SourceNotBound):
        await sources.succeed(OLD if rotated else NEW, "source-c")


async def test_a_revoked_key_is_marked_before_its_calls_in_progress_end(
    sources: Sources,
    revocations: Revocations,
    database: Database,
    owner_connection: Connection,
) -> None:
    """Whoever holds the key could prolong its calls, one after the other."""
    await add_runs(owner_connection, 1)

    async with connected(database.central_url) as call:
        await call.execute("begin")
        await call.fetchval("select cu_metadata.is_retired($1)", OLD)
        revoking = asyncio.create_task(revocations.revoke_source(OLD, "stolen"))
        await until_blocking(call)
        async with connected(database.central_url) as another:
            is_retired = asyncio.create_task(
                another.fetchval("select count(*) from cu_metadata.retired_sources")
            )
            assert await is_retired == 1
        await call.execute("commit")

    assert (await revoking).source_ids == [OLD]


async def test_the_service_may_not_take_a_retirement_back(
    database: Database, sources: Sources, owner_connection: Connection
) -> None:
    await add_runs(owner_connection, 1)
    await sources.succeed(OLD, NEW)

    async with connected(database.central_url) as connection:
        for statement in (
            "delete from cu_metadata.retired_sources",
            "update cu_metadata.retired_sources set successor_id = 'source-c'",
            "update cu_metadata.retired_sources set source_id = 'source-c'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
