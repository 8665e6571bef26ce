"""Rows 16 and 17 of the contract: what a run cost, and what of it may be exported."""

from typing import Any

import pytest

from dev.vfs_uri import global_port_id, result_uri, runtime_stats_uri
from dev.world import WORLD
from dev.world_rows import FREE_SCAN_OPERATOR, JOIN_OPERATOR, SCAN_OPERATOR
from tests.contract.rows.pairs import CUID, WID, Pair

COSTS = (
    "SELECT e.runtime_stats_uri FROM texera_db.workflow_executions e"
    " JOIN texera_db.workflow_version v ON v.vid = e.vid"
    " WHERE v.wid = $1 AND e.status = 3 ORDER BY e.starting_time DESC LIMIT 1"
)


# Row 16: DefaultCostEstimator ---------------------------------------------------------------------


@pytest.mark.parametrize("workflow", [WID, WORLD.public_workflow_id])
async def test_row_16_the_statistics_of_the_latest_completed_run_are_found(
    pair: Pair, workflow: int
) -> None:
    old = await pair.old_rows.fetchval(COSTS, workflow)

    new = await pair.new.get(f"/v1/workflows/{workflow}/operator-costs")

    assert new.body["runtime_stats_uri"] == old
    assert new.body["operators"] is None


@pytest.mark.parametrize("uri", [None, ""])
async def test_row_16_a_newest_run_without_statistics_hides_the_older_ones(
    pair: Pair, uri: str | None
) -> None:
    """The estimator looks no further back, and counts ports instead."""
    eid = await pair.started(status=3, runtime_stats_uri=uri)
    old = await pair.old_rows.fetchval(COSTS, WID)

    new = await pair.new.get(f"/v1/workflows/{WID}/operator-costs")

    assert not old
    assert new.body == {"execution_id": eid, "runtime_stats_uri": None, "operators": None}


async def test_row_16_what_the_unit_knew_at_completion_needs_no_statistics_document(
    now: Pair,
) -> None:
    eid = await now.new.create()
    costs = {"HashJoin-1": 0.25, "CSVFileScan-1": 1e-9}
    run = f"/v1/executions/{eid}"
    await now.new.write("PUT", f"{run}/operator-costs", {"operators": costs})
    uri = runtime_stats_uri(WID, eid)
    await now.new.write("PATCH", run, {"status": "COMPLETED", "runtime_stats_uri": uri})

    new = await now.new.get(f"/v1/workflows/{WID}/operator-costs")

    assert new.body == {"execution_id": eid, "runtime_stats_uri": uri, "operators": costs}


@pytest.mark.parametrize(
    ("costs", "field"),
    [
        ({"op-1": -1}, "operators[...]"),
        ({"op-1": "slow"}, "operators[...]"),
        ({"a,b": 1}, "operators.a,b"),
        ([1], "operators"),
    ],
)
async def test_row_16_hazard_costs_that_are_none_are_refused(
    now: Pair, costs: Any, field: str
) -> None:
    eid = await now.new.create()

    response = await now.new.call(
        "PUT", f"/v1/executions/{eid}/operator-costs", {"operators": costs}
    )

    assert response.outcome == (400, "invalid-request")
    assert [error["field"] for error in response.body["errors"]] == [field]


# Row 17: ResultExportService ----------------------------------------------------------------------


async def test_row_17_an_exports_look_ups_are_answered_at_once(pair: Pair) -> None:
    wid, operators = WORLD.public_workflow_id, [SCAN_OPERATOR, FREE_SCAN_OPERATOR, JOIN_OPERATOR]
    eid = await pair.old.latest_execution(wid, CUID)
    assert eid is not None
    uris = {operator: await pair.old.result_uri(eid, operator, 0) for operator in operators}
    version = await pair.old_rows.fetchval(
        "SELECT max(vid) FROM texera_db.workflow_version WHERE wid = $1", wid
    )
    await pair.new_rows.execute("UPDATE texera_db.dataset SET is_downloadable = true")

    plan = await export(pair, wid, operators)

    assert (plan["execution_id"], plan["version_id"]) == (eid, version)
    assert {operator["id"]: operator["uri"] for operator in plan["operators"]} == uris
    assert all(f"-v{version}-" in operator["file_name"] for operator in plan["operators"])


async def test_row_17_hazard_a_dataset_that_may_not_be_downloaded_blocks_downstream(
    now: Pair,
) -> None:
    """Only the browser looked; the URIs of all three were served."""
    wid, operators = WORLD.public_workflow_id, [SCAN_OPERATOR, FREE_SCAN_OPERATOR, JOIN_OPERATOR]
    served = await now.old.result_uri(WORLD.public_execution_id, JOIN_OPERATOR, 0)

    plan = await export(now, wid, operators)

    assert served is not None
    blocked = {operator["id"]: operator["blocked_by"] for operator in plan["operators"]}
    label = f"licensed-prices ({WORLD.stranger.email})"
    assert blocked == {SCAN_OPERATOR: [label], FREE_SCAN_OPERATOR: [], JOIN_OPERATOR: [label]}
    free = result_uri(wid, WORLD.public_execution_id, global_port_id(FREE_SCAN_OPERATOR, 0))
    assert [operator["uri"] for operator in plan["operators"]] == [None, free, None]


async def test_row_17_hazard_a_unit_one_may_not_see_is_refused(now: Pair) -> None:
    body = {
        "computing_unit_id": WORLD.other_computing_unit_id,
        "operators": [{"id": JOIN_OPERATOR, "output_type": "csv"}],
    }

    response = await now.new.call(
        "POST", f"/v1/workflows/{WORLD.public_workflow_id}/export-plan", body
    )

    assert response.outcome == (404, "computing-unit-not-found")


async def export(pair: Pair, workflow: int, operators: list[str]) -> dict[str, Any]:
    body = {
        "computing_unit_id": CUID,
        "operators": [{"id": operator, "output_type": "csv"} for operator in operators],
    }
    response = await pair.new.call("POST", f"/v1/workflows/{workflow}/export-plan", body)
    assert response.status == 200, response.body
    plan: dict[str, Any] = response.body
    return plan
