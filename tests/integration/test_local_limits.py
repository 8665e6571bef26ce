"""429 as a CU receives it: from its sidecar, and from central through its sidecar."""

import asyncio
from pathlib import Path

from dev.tokens import mint
from dev.world import WORLD
from tests.databases import Database
from tests.stacks import COMMITTED, running_stack


async def test_a_runaway_program_gets_429_and_its_run_still_ends(
    database: Database, tmp_path: Path
) -> None:
    low_limits = {"SIDECAR_LIMIT_WRITES_PER_S": "0.05", "SIDECAR_LIMIT_BURST_S": "100"}
    async with running_stack(database.central_url, tmp_path, low_limits) as stack:
        run = f"/v1/executions/{await stack.create()}"
        written = [await stack.call("PATCH", run, {"name": f"n{n}"}) for n in range(7)]
        others_run = f"/v1/executions/{await stack.create(WORLD.writer)}"
        other = await stack.call("PATCH", others_run, {"name": "x"}, user=WORLD.writer)
        ended = await stack.call(
            "PATCH", run, {"status": "COMPLETED"}, headers={"Prefer": "wait=20"}
        )

    assert [reply.status for reply in written] == [202] * 5 + [429] * 2
    assert written[-1].outcome == (429, "rate-limited")
    assert int(written[-1].headers["Retry-After"]) >= 1
    assert other.status == 202
    assert (ended.status, ended.body["state"]) == (200, "committed")


async def test_centrals_limit_is_passed_on_and_is_no_outage(
    database: Database, tmp_path: Path
) -> None:
    low_limits = {"CENTRAL_LIMIT_USER_CALLS_PER_S": "0.08", "CENTRAL_LIMIT_BURST_S": "100"}
    async with running_stack(database.central_url, tmp_path, low_limits) as stack:
        mine = [await stack.get(f"/v1/executions/{n}") for n in range(900_001, 900_012)]
        other = await stack.get(f"/v1/executions/{WORLD.completed_execution_id}", WORLD.reader)
        is_reachable = stack.sidecar.central.is_reachable

    assert {reply.outcome for reply in mine[:8]} == {(404, "execution-not-found")}
    assert {reply.outcome for reply in mine[8:]} == {(429, "rate-limited")}
    assert int(mine[-1].headers["Retry-After"]) >= 1
    assert other.status == 200
    assert is_reachable


async def test_neither_polls_nor_tokens_made_up_keep_a_run_from_ending(
    database: Database, tmp_path: Path
) -> None:
    low_limits = {"SIDECAR_LIMIT_CONCURRENT_CALLS": "3"}
    async with running_stack(database.central_url, tmp_path, low_limits) as stack:
        run = f"/v1/executions/{await stack.create()}"
        others_run = f"/v1/executions/{await stack.create(WORLD.writer)}"
        poll = f"{run}/result-uri?operator_id=op-1&wait=20"
        tokens = [mint(WORLD.owner.user_id, WORLD.owner.role, ttl) for ttl in (500, 600)]
        variants = [{"Authorization": f"Bearer {token}"} for token in tokens]
        polls = [
            asyncio.create_task(stack.call("GET", poll, headers=headers))
            for headers in [*variants, *[{}] * 3]
        ]
        for _ in range(200_000):
            if stack.sidecar.services.reads.waiter_count == 5:
                break
            await asyncio.sleep(0)
        again = [await stack.call("GET", run, headers=headers) for headers in ({}, variants[0])]
        other = await stack.get(others_run, WORLD.writer)
        ended = await stack.call("PATCH", run, {"status": "COMPLETED"}, headers=COMMITTED)
        for task in polls:
            task.cancel()

    assert [reply.outcome for reply in again] == [(429, "rate-limited")] * 2
    assert other.status == 200
    assert (ended.status, ended.body["state"]) == (200, "committed")
