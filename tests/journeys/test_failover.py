"""A Postgres primary is killed and its standby takes over.

Synchronous replication: the promises of `test_crashes` hold. Asynchronous: what was answered as
committed and did not reach the standby is lost, and the sidecar says so.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dev.bench.raw_http_client import RawHttpClient
from dev.world import WORLD
from tests.databases import connected, open_folder
from tests.journeys.crashing.processes import Sidecar, sample, until_sampled
from tests.journeys.crashing.replication import ReplicatedPostgres, replicated_postgres
from tests.journeys.crashing.scenario import scenario
from tests.journeys.crashing.writers import UNAVAILABLE, create_executions

SEED = 5
DELIVERED = 'sidecar_batches_total{outcome="delivered"}'
OUT_OF_STEP = 'sidecar_batches_total{outcome="out-of-step"}'
FAILED = 'sidecar_upstream_requests_total{call="batch",outcome="unavailable"}'
FAILED_CREATES = 'sidecar_upstream_requests_total{call="create",outcome="unavailable"}'
FORGOTTEN = "sidecar_forgotten_batches_total"
ANSWERED, LOST = 2, 3
"""Writes, each a batch of its own, before and after the standby is disconnected."""


@pytest.fixture
async def postgres() -> AsyncIterator[ReplicatedPostgres]:
    with open_folder() as folder:
        async with replicated_postgres(folder) as postgres:
            yield postgres


@pytest.mark.parametrize("is_restarted", [False, True], ids=["finds-primary", "restarted"])
async def test_a_synchronous_failover_loses_and_repeats_nothing(
    postgres: ReplicatedPostgres, is_restarted: bool
) -> None:
    await postgres.make_synchronous()
    async with scenario(postgres.database, SEED) as it:
        sidecar = await it.add_sidecar()

        async with it.writing():
            await until_sampled(sidecar.ops_url, DELIVERED, more=20)
            await postgres.fail_over()
            if is_restarted:
                await it.central.process.kill()
                it.central.database_url = postgres.standby_url
                it.central.start()
            await until_sampled(sidecar.ops_url, DELIVERED, more=20)

        assert await it.violations() == []


async def test_a_commit_that_the_standby_lacks_is_not_acknowledged(
    postgres: ReplicatedPostgres,
) -> None:
    """Postgres makes a commit visible whose wait for the standby was cancelled.

    Central cancels it at its timeout. The resend finds the cursor advanced, a repeated create its
    key, and neither may be answered before the standby has it: to lock the row is a commit that
    waits as well.
    """
    await postgres.make_synchronous()
    async with scenario(
        postgres.database, SEED, central_settings={"CENTRAL_DATABASE_TIMEOUT_S": "0.3"}
    ) as it:
        sidecar = await it.add_sidecar()

        async with it.writing():
            await until_sampled(sidecar.ops_url, DELIVERED, more=5)
            await postgres.disconnect_standby()
            await until_sampled(sidecar.ops_url, FAILED, more=2)  # the batch and its resend
            created = [await create(sidecar) for _ in range(2)]
            assert await postgres.standby_lacks("sum(last_batch)", "cu_metadata.cursors")
            assert await postgres.standby_lacks("count(*)", "cu_metadata.idempotency_keys")
            await postgres.fail_over()

        assert created == [UNAVAILABLE] * 2
        assert await sample(sidecar.ops_url, FAILED_CREATES) == 2  # both were central's answers
        assert await it.violations() == []


async def test_batches_that_an_asynchronous_failover_loses_are_reported(
    postgres: ReplicatedPostgres,
) -> None:
    async with scenario(postgres.database, SEED) as it:
        sidecar = await it.add_sidecar()
        execution_id, other_id, _ = sidecar.execution_ids
        kept = [await committed(sidecar, execution_id, f"kept-{n}") for n in range(ANSWERED)]
        await postgres.catch_up()
        await postgres.disconnect_standby()
        lost = [await committed(sidecar, execution_id, f"lost-{n}") for n in range(LOST)]
        assert await sample(sidecar.ops_url, FORGOTTEN) == 0

        await postgres.kill_primary()
        path = f"/v1/executions/{other_id}"
        unsettled = await call(sidecar, "PATCH", path, {"result": "unsettled"}, expect=202)
        await postgres.promote_standby()
        after = await committed(sidecar, execution_id, "after")

        assert await results(postgres, other_id) == ["unsettled"]
        assert await results(postgres, execution_id) == ["kept-0", "kept-1", "after"]
        assert await sample(sidecar.ops_url, OUT_OF_STEP) == 1
        assert await sample(sidecar.ops_url, "sidecar_spool_epochs_total") == 1
        assert await sample(sidecar.ops_url, FORGOTTEN) == LOST
        (line,) = errors(sidecar, "central no longer has batches that it had answered")
        assert line["last_batch"] - line["first_batch"] == LOST - 1
        (begun,) = errors(sidecar, "batch out of step")
        assert begun["batch"] == line["last_batch"] + 1
        assert begun["new_epoch"] != line["epoch"]
        for write_id in [
            *kept,
            *lost,
            unsettled["write_id"],
            after,
        ]:  # a settled write keeps the response it got
            write = await call(sidecar, "GET", f"/v1/writes/{write_id}")
            assert write["state"] == "committed"


async def test_writes_to_an_execution_that_a_failover_loses_end_as_refused(
    postgres: ReplicatedPostgres,
) -> None:
    async with scenario(postgres.database, SEED) as it:
        sidecar = await it.add_sidecar()
        kept_id = sidecar.execution_ids[0]
        await committed(sidecar, kept_id, "kept")
        await postgres.catch_up()
        await postgres.disconnect_standby()
        await create_executions(sidecar, 1)
        lost_id = sidecar.execution_ids[-1]
        await committed(sidecar, lost_id, "lost")
        await postgres.fail_over()

        path = f"/v1/executions/{lost_id}"
        write = await call(sidecar, "PATCH", path, {"result": "after"}, expect=202)
        await committed(sidecar, kept_id, "after")

        refused = await call(sidecar, "GET", f"/v1/writes/{write['write_id']}")
        assert (refused["state"], refused["problem"]["type"]) == ("refused", "not-bound")
        assert await results(postgres, kept_id) == ["kept", "after"]
        assert await sample(sidecar.ops_url, FORGOTTEN) == 1
        await create_executions(sidecar, 1)
        assert sidecar.execution_ids[-1] != lost_id


async def committed(sidecar: Sidecar, execution_id: int, result: str) -> str:
    """The id of a write that was answered as committed, alone in its batch."""
    path = f"/v1/executions/{execution_id}"
    write = await call(sidecar, "PATCH", path, {"result": result}, "Prefer: wait=30\r\n")
    assert write["state"] == "committed"
    return str(write["write_id"])


async def create(sidecar: Sidecar) -> int:
    """The status of a create with always the same key."""
    new = {
        "workflow_id": WORLD.workflow_id,
        "computing_unit_id": WORLD.computing_unit_id,
        "environment_version": "test",
    }
    async with RawHttpClient(sidecar.url, sidecar.token) as line:
        request = line.request("POST", "/v1/executions", new, "Idempotency-Key: once\r\n")
        return (await line.send(request)).status


async def call(
    sidecar: Sidecar,
    method: str,
    path: str,
    body: Any = None,
    headers: str = "",
    *,
    expect: int = 200,
) -> dict[str, Any]:
    async with RawHttpClient(sidecar.url, sidecar.token) as line:
        response = await line.send(line.request(method, path, body, headers))
    assert response.status == expect, response.body
    document: dict[str, Any] = response.json()
    return document


async def results(postgres: ReplicatedPostgres, execution_id: int) -> list[str]:
    """Every value that the execution's result has had, on the server that accepts writes."""
    async with connected(postgres.database.owner_url) as connection:
        rows = await connection.fetch(
            "select result from public.recorded_results where execution_id = $1 order by position",
            execution_id,
        )
    return [row["result"] for row in rows]


def errors(sidecar: Sidecar, message: str) -> list[dict[str, Any]]:
    """The sidecar's log lines of an error."""
    lines = [json.loads(line) for line in sidecar.log.read_text().splitlines()]
    return [line for line in lines if line["message"].startswith(message)]
