"""Boots: a new master process ends the runs of those before it, and of nobody else."""

import asyncio
from typing import Any

import pytest

from central.store.queries import load
from dev.world import WORLD, User
from tests.databases import Database, connected
from tests.integration.central.batching import Connection
from tests.integration.central.central_fixtures import Reply, Sidecar
from tests.integration.central.lease_fixtures import (
    add_leased,
    lease,
    reasons,
    replica,
    statuses,
)
from tests.integration.central.rows import execution_by_sql, until_blocking

UNIT = f"/v1/computing-units/{WORLD.computing_unit_id}/boots"
HOLD_UNIT = f"select pg_advisory_xact_lock(7080004, {WORLD.computing_unit_id})"


async def boot(sidecar: Sidecar, boot_id: str, **options: Any) -> Reply:
    options = {"user": WORLD.owner} | options
    return await sidecar.call("POST", UNIT, {"boot_id": boot_id}, **options)


async def created(sidecar: Sidecar, boot_id: str | None = None) -> int:
    reply = await sidecar.create(boot_id=boot_id)
    assert reply.status == 201, reply.body
    return int(reply.body["execution_id"])


async def test_boot_closes_runs_of_earlier_boots_only(
    sidecar: Sidecar, owner_connection: Connection
) -> None:
    before_the_first = await created(sidecar)
    first = await boot(sidecar, "one")
    old = await created(sidecar, "one")
    ended = await created(sidecar, "one")
    await sidecar.call(
        "PATCH", f"/v1/executions/{ended}", {"status": "COMPLETED"}, user=WORLD.owner
    )
    unbound = await execution_by_sql(owner_connection, status=1)
    (elsewhere,) = await add_leased(
        owner_connection, 1, source_id="other", unit_id=WORLD.other_computing_unit_id
    )

    second = await boot(sidecar, "two")
    new = await created(sidecar, "two")
    repeated = await boot(sidecar, "two")

    assert first.body == {"closed": [before_the_first]}
    assert (second.status, second.body) == (200, {"closed": [old]})
    assert repeated.body == second.body
    runs = [before_the_first, old, ended, unbound, elsewhere, new]
    assert await statuses(owner_connection, sorted(runs)) == [
        {before_the_first: 4, old: 4, ended: 3, unbound: 1, elsewhere: 1, new: 0}[run]
        for run in sorted(runs)
    ]
    assert await reasons(owner_connection, runs) == dict.fromkeys(
        [before_the_first, old], "superseded-boot"
    )
    assert await lease(owner_connection, old) is None


async def test_a_superseded_boot_may_neither_boot_nor_create_nor_bind(
    sidecar: Sidecar, owner_connection: Connection
) -> None:
    await boot(sidecar, "one")
    await boot(sidecar, "two")
    execution_id = await execution_by_sql(owner_connection, status=1)
    target = f"/v1/executions/{execution_id}/binding"

    outcomes = [
        await boot(sidecar, "one"),
        await sidecar.create(boot_id="one"),
        await sidecar.call("POST", target, {"boot_id": "one"}, user=WORLD.owner),
    ]
    bound = await sidecar.call("POST", target, {"boot_id": "two"}, user=WORLD.owner)

    assert [reply.outcome for reply in outcomes] == [(409, "boot-superseded")] * 3
    assert bound.status == 200
    assert (
        await owner_connection.fetchval(
            "select boot_id from cu_metadata.bindings where execution_id = $1", execution_id
        )
        == "two"
    )


@pytest.mark.parametrize("with_lease", [False, True])
@pytest.mark.parametrize("has_boot", [False, True])
async def test_a_boot_from_outside_the_unit_changes_nothing(
    sidecar: Sidecar, owner_connection: Connection, has_boot: bool, with_lease: bool
) -> None:
    """A WRITE grant and a key of one's own making, even with a run of one's own on the unit."""
    if has_boot:
        await boot(sidecar, "one")
    run = await created(sidecar, "one")
    outside = sidecar.another()
    if with_lease:
        assert (await outside.create(WORLD.writer)).status == 201

    refused = await boot(outside, "made-up", user=WORLD.writer)

    assert refused.outcome == (403, "boot-forbidden")
    assert await statuses(owner_connection, [run]) == [0]
    assert (await sidecar.create(boot_id="one")).status == 201
    assert (
        await owner_connection.fetchval(
            "select slug from cu_metadata.refusals where source_id = $1", outside.source_id
        )
        == "boot-forbidden"
    )


@pytest.mark.parametrize("user", [WORLD.owner, WORLD.writer], ids=["owner", "writer"])
async def test_the_source_of_the_current_boot_may_register_the_next(
    sidecar: Sidecar, user: User
) -> None:
    await boot(sidecar, "one")

    assert (await boot(sidecar, "two", user=user)).status == 200


async def test_the_owner_may_register_a_boot_from_another_source(sidecar: Sidecar) -> None:
    """The unit's pod, and with it the key, was replaced."""
    await boot(sidecar, "one")
    replaced = sidecar.another()

    assert (await boot(replaced, "two")).status == 200
    refused = await boot(sidecar, "three", user=WORLD.writer)
    assert refused.outcome == (403, "boot-forbidden")


async def test_a_units_first_boot_may_come_from_the_source_of_all_its_leases(
    sidecar: Sidecar,
) -> None:
    nothing = await boot(sidecar, "one", user=WORLD.writer)
    run = await created(sidecar)
    holding = await boot(sidecar, "one", user=WORLD.writer)

    assert nothing.outcome == (403, "boot-forbidden")
    assert holding.body == {"closed": [run]}


async def test_unknown_boot_counts_as_none(sidecar: Sidecar, owner_connection: Connection) -> None:
    lost = await created(sidecar, "lost in a failover")

    assert (await boot(sidecar, "next")).body == {"closed": [lost]}


@pytest.mark.parametrize("boot_id", ["", "x" * 129, "\x00", 7, None])
async def test_invalid_boot_id_is_refused(sidecar: Sidecar, boot_id: Any) -> None:
    reply = await boot(sidecar, boot_id)

    assert reply.outcome == (400, "invalid-request")
    assert reply.body["errors"][0]["field"] == "boot_id"


@pytest.mark.parametrize("boot_id", ["one", None])
async def test_concurrent_create_is_closed_by_the_superseding_boot(
    sidecar: Sidecar, database: Database, boot_id: str | None
) -> None:
    """The create holds its boot (its unit's, if it names none) until it commits."""
    await boot(sidecar, "one")
    async with connected(database.central_url) as creating:
        await creating.execute("begin")
        new = await creating.fetchrow(
            load("executions")["create_execution"].text,
            WORLD.owner.user_id, WORLD.workflow_id, WORLD.computing_unit_id, "name", "test",
            sidecar.source_id, 90.0, boot_id,
        )  # fmt: skip
        booting = asyncio.create_task(boot(sidecar, "two"))
        await until_blocking(creating)
        await creating.execute("commit")

    assert new is not None
    assert (await booting).body == {"closed": [new["execution_id"]]}


async def test_concurrent_bind_is_closed_by_the_superseding_boot(
    sidecar: Sidecar, database: Database, owner_connection: Connection
) -> None:
    await boot(sidecar, "one")
    execution_id = await execution_by_sql(owner_connection, status=1)
    queries = load("bindings")
    async with connected(database.central_url) as binding:
        await binding.execute("begin")
        await binding.fetch(queries["share_boot"].text, execution_id, "one")
        await binding.execute(
            queries["bind"].text,
            execution_id, sidecar.source_id, WORLD.owner.user_id, WORLD.workflow_id,
            WORLD.computing_unit_id, None, True, 90.0, "one",
        )  # fmt: skip
        booting = asyncio.create_task(boot(sidecar, "two"))
        await until_blocking(binding)
        await binding.execute("commit")

    assert (await booting).body == {"closed": [execution_id]}


async def test_create_missed_by_the_first_boot_is_closed_by_the_closer(
    sidecar: Sidecar, database: Database, owner_connection: Connection
) -> None:
    """It named no boot, there was none to hold, and it was not committed when the boot looked."""
    async with connected(database.central_url) as creating, replica(database) as central:
        async with connected(database.central_url) as holding:
            await holding.execute(f"begin; {HOLD_UNIT}")
            booting = asyncio.create_task(boot(sidecar, "first"))
            await until_blocking(holding)
            await creating.execute("begin")
            slipped = await creating.fetchrow(
                load("executions")["create_execution"].text,
                WORLD.owner.user_id, WORLD.workflow_id, WORLD.computing_unit_id, "name", "test",
                sidecar.source_id, 90.0, None,
            )  # fmt: skip
            await holding.execute("commit")
        closed = (await booting).body["closed"]
        await creating.execute("commit")
        after = await created(sidecar)
        await central.run_once()

    assert slipped is not None
    assert closed == []
    assert await reasons(owner_connection, [slipped["execution_id"], after]) == {
        slipped["execution_id"]: "superseded-boot"
    }


async def test_create_during_a_superseding_boot_is_refused(
    sidecar: Sidecar, database: Database
) -> None:
    await boot(sidecar, "one")
    async with connected(database.owner_url) as booting:
        await booting.execute("begin; update cu_metadata.boots set superseded_at = now()")
        creating = asyncio.create_task(sidecar.create(boot_id="one"))
        await until_blocking(booting)
        await booting.execute("commit")

    assert (await creating).outcome == (409, "boot-superseded")


async def test_concurrent_creates_and_boots_leave_no_old_run_open(
    sidecar: Sidecar, owner_connection: Connection
) -> None:
    await boot(sidecar, "boot-0")

    async def create_under(number: int) -> None:
        await sidecar.create(boot_id=f"boot-{number}")

    for number in range(1, 6):
        await asyncio.gather(
            *(create_under(number - 1) for _ in range(6)),
            boot(sidecar, f"boot-{number}"),
            *(create_under(number - 1) for _ in range(6)),
        )
        orphans = await owner_connection.fetch(
            """
            select e.eid from texera_db.workflow_executions e
            join cu_metadata.bindings b on b.execution_id = e.eid
            where e.status not in (3, 4, 5) and b.boot_id is distinct from $1
            """,
            f"boot-{number}",
        )
        assert orphans == []


async def test_concurrent_boots_leave_one_current(
    sidecar: Sidecar, owner_connection: Connection
) -> None:
    replies = await asyncio.gather(*(boot(sidecar, f"boot-{n}") for n in range(8)))

    assert [reply.status for reply in replies] == [200] * 8
    current = await owner_connection.fetchval(
        "select count(*) from cu_metadata.boots where superseded_at is null"
    )
    assert current == 1


async def test_abandoned_creates_are_closed_and_nothing_else(
    sidecar: Sidecar, owner_connection: Connection
) -> None:
    abandoned, ended = await created(sidecar), await created(sidecar)
    await sidecar.call("PATCH", f"/v1/executions/{ended}", {"status": "KILLED"}, user=WORLD.owner)
    elsewhere = await created(sidecar.another())
    ids = [abandoned, ended, elsewhere, WORLD.stuck_execution_id]

    reply = await sidecar.call("POST", "/v1/bindings/abandoned", {"execution_ids": ids})

    assert (reply.status, reply.body) == (200, {"closed": [abandoned]})
    assert await statuses(owner_connection, [abandoned, ended, elsewhere]) == [4, 5, 0]
    assert await reasons(owner_connection, ids) == {abandoned: "abandoned-create"}


async def test_bound_existing_run_is_no_abandoned_create(
    sidecar: Sidecar, owner_connection: Connection
) -> None:
    """Its unit runs it and will write to it again, although the response to the bind was lost."""
    execution_id = await execution_by_sql(owner_connection, status=1)
    assert (await sidecar.bind(execution_id)).status == 200

    reply = await sidecar.call("POST", "/v1/bindings/abandoned", {"execution_ids": [execution_id]})

    assert reply.body == {"closed": []}
    assert await statuses(owner_connection, [execution_id]) == [1]


async def test_reason_unit_gone_closes_all_listed_runs(
    sidecar: Sidecar, owner_connection: Connection
) -> None:
    existing = await execution_by_sql(owner_connection, status=1)
    await sidecar.bind(existing)
    new, elsewhere = await created(sidecar), await created(sidecar.another())
    body = {"execution_ids": [existing, new, elsewhere], "reason": "unit-gone"}

    reply = await sidecar.call("POST", "/v1/bindings/abandoned", body)
    wrong = await sidecar.call("POST", "/v1/bindings/abandoned", body | {"reason": "boredom"})

    assert reply.body == {"closed": [existing, new]}
    assert await reasons(owner_connection, [existing, new]) == dict.fromkeys(
        [existing, new], "unit-gone"
    )
    assert await lease(owner_connection, new) is None
    assert (wrong.outcome, wrong.body["errors"][0]["field"]) == ((400, "invalid-request"), "reason")


async def test_open_bindings_are_filtered_by_age(
    sidecar: Sidecar, owner_connection: Connection
) -> None:
    old, young = await created(sidecar), await created(sidecar)
    await owner_connection.execute(
        "update cu_metadata.bindings set created_at = now() - interval '1 minute'"
        " where execution_id = $1",
        old,
    )

    reply = await sidecar.call("GET", "/v1/bindings?min_age_s=30")
    all_of_them = await sidecar.call("GET", "/v1/bindings")

    assert [binding["execution_id"] for binding in reply.body["bindings"]] == [old]
    assert len(all_of_them.body["bindings"]) == len([old, young])
