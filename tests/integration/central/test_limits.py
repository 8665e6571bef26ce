"""Limits by user and by source, for direct calls and with invented keys."""

import asyncio
from typing import Any

import pytest

from central.auth_settings import FULL_BATCH_ENTRIES, LimitSettings
from dev.world import WORLD
from tests.databases import Database
from tests.integration.central.central_fixtures import Sidecar, running_central
from tests.integration.central.rows import execution_by_sql

VERSION = f"/v1/workflows/{WORLD.workflow_id}/versions/latest"
WAITING = "select count(*) from pg_locks where not granted"
LOW_RATES = {
    "CENTRAL_LIMIT_BURST_S": "100"
}  # and rates so low that the length of a test gives none


def serving(database: Database, **limits: str) -> Any:
    variables = LOW_RATES | {f"CENTRAL_LIMIT_{name}": value for name, value in limits.items()}
    return running_central(database.central_url, variables=variables)


async def called(sidecar: Sidecar, count: int, user: Any = WORLD.owner) -> list[int]:
    return [(await sidecar.get("/v1/token", user)).status for _ in range(count)]


async def test_a_users_calls_are_limited_across_sources(
    database: Database,
) -> None:
    async with serving(database, USER_CALLS_PER_S="0.05") as sidecar:
        first = await called(sidecar, 5)
        refused = await sidecar.another().get("/v1/token")
        others = await called(sidecar, 3, WORLD.writer)

    assert first == [200] * 5
    assert refused.outcome == (429, "rate-limited")
    assert int(refused.headers["Retry-After"]) >= 1
    assert "user" in refused.body["detail"]
    assert others == [200] * 3


async def test_a_sources_calls_are_limited_across_users(
    database: Database,
) -> None:
    async with serving(database, SOURCE_CALLS_PER_S="0.04") as sidecar:
        first = [(await sidecar.call("GET", "/v1/bindings")).status for _ in range(4)]
        refused = await sidecar.get("/v1/token", WORLD.writer)
        other = await sidecar.another().call("GET", "/v1/bindings")

    assert first == [200] * 4
    assert refused.outcome == (429, "rate-limited")
    assert "sidecar" in refused.body["detail"]
    assert other.status == 200


async def test_bytes_are_limited(database: Database) -> None:
    async with serving(database, SOURCE_BYTES_PER_S="20") as sidecar:
        execution_id = (await sidecar.create()).body["execution_id"]
        change = {"execution_id": execution_id, "op": "update_execution", "result": "x" * 900}
        first = await sidecar.deliver(change)
        second = await sidecar.deliver(change)

    assert first.outcomes == ["applied"]
    assert second.outcome == (429, "rate-limited")
    assert "bytes" in second.body["detail"]


async def test_new_sources_share_one_limit_and_known_ones_are_unaffected(
    database: Database,
) -> None:
    async with serving(database, NEW_SOURCES_PER_S="0.03") as sidecar:
        known = await sidecar.call("GET", "/v1/bindings")
        made_up = [await sidecar.another().call("GET", "/v1/bindings") for _ in range(6)]
        again = [(await sidecar.call("GET", "/v1/bindings")).status for _ in range(6)]

    assert known.status == 200
    assert [reply.status for reply in made_up] == [200, 200, 429, 429, 429, 429]
    assert again == [200] * 6


@pytest.mark.parametrize("whose", ["USER", "SOURCE"])
async def test_open_bindings_are_limited_and_ended_ones_do_not_count(
    database: Database, owner_connection: Any, whose: str
) -> None:
    async with serving(database, **{f"{whose}_OPEN_BINDINGS": "3"}) as sidecar:
        runs = [(await sidecar.create()).body["execution_id"] for _ in range(3)]
        created = await sidecar.create()
        bound = await sidecar.bind(await execution_by_sql(owner_connection))
        own_again = await sidecar.bind(runs[0])
        of_the_past = await sidecar.bind(WORLD.completed_execution_id)
        other = await (sidecar.another() if whose == "SOURCE" else sidecar).create(
            WORLD.owner if whose == "SOURCE" else WORLD.writer
        )
        await sidecar.call(
            "PATCH", f"/v1/executions/{runs[1]}", {"status": "COMPLETED"}, user=WORLD.owner
        )
        after_one_ended = await sidecar.create()

    assert created.outcome == bound.outcome == (429, "rate-limited")
    assert created.headers["Retry-After"] == "30"
    assert own_again.status == of_the_past.status == 200
    assert other.status == 201
    assert after_one_ended.status == 201


async def test_creates_below_the_limit_do_not_query_the_count_each_time(database: Database) -> None:
    async with serving(database) as sidecar:
        for _ in range(5):
            assert (await sidecar.create()).status == 201
        metrics = sidecar.metrics.registry

    counted = metrics.get_sample_value(
        "central_statement_seconds_count", {"statement": "count_open_bindings"}
    )
    assert counted == 1


async def test_a_batch_above_the_entry_limit_is_413(database: Database) -> None:
    async with serving(database, BATCH_ENTRIES=str(FULL_BATCH_ENTRIES)) as sidecar:
        change = {"execution_id": 1, "op": "update_execution", "name": "x"}
        unbound = await sidecar.deliver(*[change] * FULL_BATCH_ENTRIES)
        await sidecar.create()
        fits = await sidecar.deliver(*[change] * FULL_BATCH_ENTRIES)
        too_many = await sidecar.deliver(*[change] * (FULL_BATCH_ENTRIES + 1))

    assert unbound.outcome == (413, "body-too-large")
    assert fits.status == 200
    assert too_many.outcome == (413, "body-too-large")
    assert "entries" in too_many.body["detail"]


async def test_zero_disables_each_limit(database: Database) -> None:
    names = [name.upper() for name in LimitSettings.__dataclass_fields__ if name != "burst_s"]
    async with serving(database, **dict.fromkeys(names, "0")) as sidecar:
        assert await called(sidecar, 50) == [200] * 50
        assert (await sidecar.create()).status == 201


async def test_one_users_concurrent_calls_do_not_delay_another_user(
    database: Database, owner_connection: Any
) -> None:
    read = f"/v1/executions/{WORLD.completed_execution_id}"
    async with running_central(database.central_url) as sidecar:
        async with owner_connection.transaction():
            await owner_connection.execute("lock texera_db.workflow_executions")
            flood = [asyncio.create_task(sidecar.get(read)) for _ in range(40)]
            while await owner_connection.fetchval(WAITING) < 5:
                pass
            other = await sidecar.get(VERSION, WORLD.writer)
            is_held_up = [task.done() for task in flood]
        flooded = [(await task).status for task in flood]

    assert other.status == 200
    assert not any(is_held_up)
    assert flooded == [200] * 40
