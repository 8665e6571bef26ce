"""What is asked of a workflow as a whole: its version, its costs, an execution of its own."""

from datetime import datetime
from typing import Any

import pytest

from dev.vfs_uri import runtime_stats_uri
from dev.world import WORLD, User
from tests.integration.central.central_fixtures import Sidecar
from tests.integration.central.rows import execution_by_sql

WORKFLOW = f"/v1/workflows/{WORLD.workflow_id}"
PER_CALLER = ("/operator-costs", "/executions/latest")
"""Reads that select the run of a workflow that counts for the caller."""
STATS = runtime_stats_uri(WORLD.workflow_id, WORLD.completed_execution_id)


async def test_the_latest_version_is_answered(sidecar: Sidecar) -> None:
    response = await sidecar.get(f"{WORKFLOW}/versions/latest")

    assert response.body == {"workflow_id": WORLD.workflow_id, "version_id": WORLD.version_id}


async def test_asking_for_a_version_makes_none(sidecar: Sidecar, owner_connection: Any) -> None:
    await owner_connection.execute(
        "INSERT INTO texera_db.workflow (wid, name, content, is_public)"
        " VALUES (150, 'New', '{}', true)"
    )

    response = await sidecar.get("/v1/workflows/150/versions/latest")

    assert response.outcome == (404, "no-version")
    assert not await owner_connection.fetchval(
        "SELECT count(*) FROM texera_db.workflow_version WHERE wid = 150"
    )


async def test_costs_are_those_of_the_latest_completed_run(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    eid = (await sidecar.create()).body["execution_id"]
    costs = {"operators": {"op-1": 1.5, "op_2": 0}}
    before = await sidecar.get(f"{WORKFLOW}/operator-costs")
    stored = await sidecar.call(
        "PUT", f"/v1/executions/{eid}/operator-costs", costs, user=WORLD.owner
    )
    running = await sidecar.get(f"{WORKFLOW}/operator-costs")
    await sidecar.call("PATCH", f"/v1/executions/{eid}", {"status": 3}, user=WORLD.owner)

    after = await sidecar.get(f"{WORKFLOW}/operator-costs")

    only_document = {
        "execution_id": WORLD.completed_execution_id,
        "runtime_stats_uri": STATS,
        "operators": None,
    }
    assert stored.status == 200
    assert before.body == running.body == only_document
    assert after.body == {"execution_id": eid, "runtime_stats_uri": None, **costs}


async def test_the_latest_run_is_the_one_that_started_last(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    """As Texera's estimator orders them; a run with a greater id may have started earlier."""
    await execution_by_sql(owner_connection, status=3, starting_time=datetime(2020, 1, 1))  # noqa: DTZ001

    response = await sidecar.get(f"{WORKFLOW}/operator-costs")

    assert response.body["execution_id"] == WORLD.completed_execution_id


async def test_without_a_completed_run_there_are_no_costs(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    await owner_connection.execute("UPDATE texera_db.workflow_executions SET status = 4")

    response = await sidecar.get(f"{WORKFLOW}/operator-costs")

    assert response.outcome == (404, "no-completed-run")


@pytest.mark.parametrize("operator", ["", "a,b", "a/b", "x" * 101, "a b"])
async def test_costs_of_an_impossible_operator_are_refused(sidecar: Sidecar, operator: str) -> None:
    eid = (await sidecar.create()).body["execution_id"]

    response = await sidecar.call(
        "PUT",
        f"/v1/executions/{eid}/operator-costs",
        {"operators": {operator: 1}},
        user=WORLD.owner,
    )

    assert response.outcome == (400, "invalid-request")
    assert response.body["errors"][0]["field"] == f"operators.{operator[:100]}"


async def test_an_execution_is_answered_under_its_own_workflow_only(sidecar: Sidecar) -> None:
    """Once, another workflow's replay log could be read by its execution's id alone."""
    eid = WORLD.failed_execution_id

    own = await sidecar.get(f"{WORKFLOW}/executions/{eid}")
    other = await sidecar.get(f"/v1/workflows/{WORLD.public_workflow_id}/executions/{eid}")

    assert own.body["log_location"] == "file:///logs/501"
    assert other.outcome == (404, "execution-not-found")


@pytest.mark.parametrize("runner", [WORLD.reader, WORLD.colleague])
async def test_a_readers_run_is_the_latest_for_that_reader_only(
    sidecar: Sidecar, owner_connection: Any, runner: User
) -> None:
    """Whoever may read a workflow may run it; by whose costs others are scheduled is not theirs."""
    before = await sidecar.get(f"{WORKFLOW}/operator-costs")
    newest = await sidecar.get(f"{WORKFLOW}/executions/latest")
    eid = await execution_by_sql(owner_connection, status=3, uid=runner.user_id)
    await owner_connection.execute(
        "INSERT INTO cu_metadata.operator_costs (execution_id, operators)"
        """ VALUES ($1, '{"op-1": 1e9}')""",
        eid,
    )

    for user in (WORLD.owner, WORLD.writer, WORLD.admin):
        costs = await sidecar.get(f"{WORKFLOW}/operator-costs", user=user)
        latest = await sidecar.get(f"{WORKFLOW}/executions/latest", user=user)
        assert (costs.body, latest.body) == (before.body, newest.body)
    own = [await sidecar.get(f"{WORKFLOW}{path}", user=runner) for path in PER_CALLER]
    assert [reply.body["execution_id"] for reply in own] == [eid, eid]
    assert own[0].body["operators"] == {"op-1": 1e9}
    page = await sidecar.get(f"{WORKFLOW}/executions?limit=1")
    assert page.body["executions"][0]["execution_id"] == eid  # nothing is hidden


async def test_a_run_counts_as_long_as_its_user_may_write(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    eid = await execution_by_sql(owner_connection, status=3, uid=WORLD.writer.user_id)
    with_grant = [await sidecar.get(f"{WORKFLOW}{path}") for path in PER_CALLER]
    await owner_connection.execute(
        "UPDATE texera_db.workflow_user_access SET privilege = 'READ' WHERE wid = $1 AND uid = $2",
        WORLD.workflow_id,
        WORLD.writer.user_id,
    )

    without = [await sidecar.get(f"{WORKFLOW}{path}") for path in PER_CALLER]

    assert [reply.body["execution_id"] for reply in with_grant] == [eid, eid]
    assert all(reply.body["execution_id"] < eid for reply in without)
