"""Executions are created once, with all that belongs to them, for who may."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from dev.world import WORLD, User
from tests.databases import Database, connected
from tests.integration.central.central_fixtures import LEASE_S, Reply, Sidecar, running_central
from tests.integration.central.rows import execution_by_sql, until_blocking

OWNER = WORLD.owner.user_id
CREATE = {
    "workflow_id": WORLD.workflow_id,
    "computing_unit_id": WORLD.computing_unit_id,
    "environment_version": "test",
}
FORGET_VERSIONS = "DELETE FROM texera_db.workflow_version WHERE wid = $1"


async def stored(connection: Any, execution_id: int) -> Any:
    return await connection.fetchrow(
        "SELECT * FROM texera_db.workflow_executions WHERE eid = $1", execution_id
    )


async def test_a_run_is_born_ready_with_its_binding_and_lease(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    reply = await sidecar.create(name="first")

    created = reply.body
    execution_id, started_at = created["execution_id"], created["started_at"]
    assert reply.status == 201
    assert created == {
        "execution_id": execution_id,
        "workflow_id": WORLD.workflow_id,
        "version_id": WORLD.version_id,
        "computing_unit_id": WORLD.computing_unit_id,
        "user_id": OWNER,
        "status": "READY",
        "status_code": 0,
        "started_at": started_at,
        "warehouse": None,
    }
    row = await stored(owner_connection, execution_id)
    assert (row["status"], row["name"], row["uid"]) == (0, "first", OWNER)
    assert (row["bookmarked"], row["runtime_stats_size"]) == (False, 0)
    binding = await owner_connection.fetchrow(
        "SELECT * FROM cu_metadata.bindings WHERE execution_id = $1", execution_id
    )
    assert (binding["source_id"], binding["user_id"]) == (sidecar.source_id, OWNER)
    assert (binding["workflow_id"], binding["revoked_at"]) == (WORLD.workflow_id, None)
    lease_s = await owner_connection.fetchval(
        "SELECT extract(epoch FROM expires_at - now())::float FROM cu_metadata.leases"
        " WHERE execution_id = $1 AND source_id = $2",
        execution_id,
        sidecar.source_id,
    )
    assert LEASE_S - 30 < lease_s <= LEASE_S


async def test_times_are_the_databases_in_utc(sidecar: Sidecar, owner_connection: Any) -> None:
    created = (await sidecar.create()).body

    now = await owner_connection.fetchval("SELECT now()")
    started_at = datetime.fromisoformat(created["started_at"])
    row = await stored(owner_connection, created["execution_id"])
    assert created["started_at"].endswith("Z")
    assert 0 <= (now - started_at).total_seconds() < 30
    assert row["starting_time"] == started_at.replace(tzinfo=None)
    assert now.tzinfo == UTC


@pytest.mark.parametrize("name", [{}, {"name": None}, {"name": ""}], ids=str)
async def test_a_run_without_a_name_gets_texeras(sidecar: Sidecar, name: dict[str, Any]) -> None:
    created = await sidecar.create(**name)

    read = await sidecar.get(f"/v1/executions/{created.body['execution_id']}")
    assert read.body["name"] == "Untitled Execution"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"uid": 5}, "uid"),
        ({"user_id": 5}, "user_id"),
        ({"status": 1}, "status"),
        ({"workflow_id": 0}, "workflow_id"),
        ({"workflow_id": 2**31}, "workflow_id"),
        ({"computing_unit_id": None}, "computing_unit_id"),
        ({"environment_version": "x" * 129}, "environment_version"),
        ({"name": "a\x00b"}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"warehouse_id": "7"}, "warehouse_id"),
    ],
    ids=str,
)
async def test_a_malformed_request_names_its_field(
    sidecar: Sidecar, change: dict[str, Any], field: str
) -> None:
    reply = await sidecar.create(**change)

    assert reply.outcome == (400, "invalid-request")
    assert [error["field"] for error in reply.body["errors"]] == [field]


async def test_a_name_is_counted_in_characters_as_postgres_counts_them(sidecar: Sidecar) -> None:
    name = "\N{SNOWMAN}" * 128

    created = await sidecar.create(name=name)

    read = await sidecar.get(f"/v1/executions/{created.body['execution_id']}")
    assert read.body["name"] == name


# --- once


async def test_repeats_at_once_create_one_execution(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    count = "SELECT count(*) FROM texera_db.workflow_executions"
    before = await owner_connection.fetchval(count)

    replies = await asyncio.gather(
        *(
            sidecar.call("POST", "/v1/executions", CREATE, user=WORLD.owner, key="the-key")
            for _ in range(20)
        )
    )

    assert await owner_connection.fetchval(count) == before + 1
    assert [reply.status for reply in replies] == [201] * 20
    assert len({reply.body["execution_id"] for reply in replies}) == 1


async def test_a_key_belongs_to_its_user_its_source_and_its_body(sidecar: Sidecar) -> None:
    async def create(caller: Sidecar, user: User, body: dict[str, Any] = CREATE) -> Reply:
        return await caller.call("POST", "/v1/executions", body, user=user, key="the-key")

    first = await create(sidecar, WORLD.owner)

    repeated = await create(sidecar, WORLD.owner)
    assert repeated.body == first.body
    assert [r.headers.get("Idempotent-Replayed") for r in (first, repeated)] == [None, "true"]
    assert (await create(sidecar, WORLD.owner, CREATE | {"name": "other"})).outcome == (
        422,
        "idempotency-key-reused",
    )
    others = await create(sidecar, WORLD.writer), await create(sidecar.another(), WORLD.owner)
    assert first.body["execution_id"] not in {reply.body["execution_id"] for reply in others}


async def test_a_refused_call_keeps_no_key(sidecar: Sidecar, owner_connection: Any) -> None:
    async def create() -> Reply:
        return await sidecar.call("POST", "/v1/executions", CREATE, user=WORLD.reader, key="k")

    assert (await create()).status == 404
    await owner_connection.execute(
        "INSERT INTO texera_db.computing_unit_user_access VALUES ($1, $2, 'WRITE')",
        WORLD.computing_unit_id,
        WORLD.reader.user_id,
    )
    assert (await create()).status == 201


async def test_after_a_day_a_key_is_new(sidecar: Sidecar, owner_connection: Any) -> None:
    async def create() -> int:
        reply = await sidecar.call("POST", "/v1/executions", CREATE, user=WORLD.owner, key="k")
        return int(reply.body["execution_id"])

    async def pass_hours(hours: float) -> None:
        await owner_connection.execute(
            "UPDATE cu_metadata.idempotency_keys SET created_at = now() - $1 * interval '1 hour'",
            hours,
        )

    first = await create()
    await pass_hours(23.9)
    assert await create() == first

    await pass_hours(24.1)
    second = await create()
    assert second > first
    assert await create() == second


async def test_a_call_that_changes_something_needs_a_key(sidecar: Sidecar) -> None:
    reply = await sidecar.call("POST", "/v1/executions", CREATE, user=WORLD.owner, key="")

    assert reply.outcome == (400, "invalid-request")
    assert reply.body["errors"][0]["field"] == "Idempotency-Key"


# --- races


async def test_first_runs_of_a_workflow_make_one_version(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    await owner_connection.execute(FORGET_VERSIONS, WORLD.workflow_id)

    replies = await asyncio.gather(*(sidecar.create() for _ in range(8)))

    versions = await owner_connection.fetch(
        "SELECT vid, content FROM texera_db.workflow_version WHERE wid = $1", WORLD.workflow_id
    )
    assert [reply.status for reply in replies] == [201] * 8
    assert [row["content"] for row in versions] == ["[]"]
    assert {reply.body["version_id"] for reply in replies} == {versions[0]["vid"]}


async def test_a_refused_run_leaves_no_version(sidecar: Sidecar, owner_connection: Any) -> None:
    await owner_connection.execute(FORGET_VERSIONS, WORLD.workflow_id)

    assert (await sidecar.create(WORLD.reader)).status == 404

    versions = "SELECT count(*) FROM texera_db.workflow_version WHERE wid = $1"
    assert await owner_connection.fetchval(versions, WORLD.workflow_id) == 0


async def test_a_terminated_unit_runs_nothing(sidecar: Sidecar, owner_connection: Any) -> None:
    await owner_connection.execute(
        "UPDATE texera_db.workflow_computing_unit SET terminate_time = now() WHERE cuid = $1",
        WORLD.computing_unit_id,
    )

    assert (await sidecar.create()).outcome == (409, "computing-unit-terminated")
    assert (await sidecar.create(WORLD.reader)).outcome == (404, "computing-unit-not-found")


async def test_a_unit_deleted_meanwhile_is_not_found(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    """The statement still sees the unit; its foreign key no longer finds it."""
    async with owner_connection.transaction():
        await owner_connection.execute(
            "DELETE FROM texera_db.workflow_computing_unit WHERE cuid = $1",
            WORLD.computing_unit_id,
        )
        creating = asyncio.ensure_future(sidecar.create())
        await until_blocking(owner_connection)

    assert (await creating).outcome == (404, "computing-unit-not-found")


# --- the variants of the schema


async def test_a_warehouse_needs_a_texera_that_has_them(sidecar: Sidecar) -> None:
    assert (await sidecar.create(warehouse_id=7)).outcome == (422, "warehouse-unsupported")


async def test_a_run_goes_to_a_warehouse_of_its_users(warehouse_database: Database) -> None:
    async with (
        running_central(warehouse_database.central_url) as sidecar,
        connected(warehouse_database.owner_url) as connection,
    ):
        own, others = [
            await connection.fetchval(
                "INSERT INTO texera_db.user_warehouse (uid, name, lakekeeper_warehouse_name)"
                " VALUES ($1, 'w', $2) RETURNING whid",
                user.user_id,
                f"user-{user.user_id}-w",
            )
            for user in (WORLD.owner, WORLD.writer)
        ]

        without = await sidecar.create()
        within = await sidecar.create(warehouse_id=own)

        assert (without.body["warehouse"], within.body["warehouse"]) == (None, "user-1-w")
        assert (await stored(connection, within.body["execution_id"]))["whid"] == own
        assert (await stored(connection, without.body["execution_id"]))["whid"] is None
        for unknown in (others, 999):
            assert (await sidecar.create(warehouse_id=unknown)).outcome == (
                404,
                "warehouse-not-found",
            )
        # An execution made without us is in its warehouse all the same.
        bound = await sidecar.another().bind(await execution_by_sql(connection, whid=own))
        assert bound.body["warehouse"] == "user-1-w"


async def test_sizes_may_be_int_as_they_were(int_sizes_database: Database) -> None:
    completed = f"/v1/executions/{WORLD.completed_execution_id}"
    async with running_central(int_sizes_database.central_url) as sidecar:
        assert (await sidecar.create()).status == 201
        read, uris = await sidecar.get(completed), await sidecar.get(f"{completed}/uris")

    assert read.body["runtime_stats_bytes"] == 4096
    assert {port["result_bytes"] for port in uris.body["results"]} == {1024}
