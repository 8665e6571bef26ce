"""Row 1 of the contract: a run is created."""

from typing import Any

import pytest

from dev.metadata_backend import NewExecution
from dev.world import WORLD
from tests.contract.rows.pairs import CUID, PORT, WID, Pair, fetch_row, result_of

# Row 1: insertNewExecution ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "Monday", "x" * 128, "ß" * 128])
async def test_row_01_an_execution_is_inserted(pair: Pair, name: str) -> None:
    old = await pair.old.create_execution(NewExecution(WID, CUID, '{"engine_version":"1"}', name))
    new = await pair.new.create(name=name, environment_version='{"engine_version":"1"}')

    before, after = await pair.tables()
    row = before["workflow_executions"][-1]
    assert (old, row["status"]) == (new, 1)
    row["status"] = 0  # born READY instead of RUNNING: a row without a word is no running run
    assert before == after


async def test_row_01_a_workflow_without_versions_gets_its_first(pair: Pair) -> None:
    await pair.both("DELETE FROM texera_db.workflow_version WHERE wid = $1", WID)

    await pair.old.create_execution(NewExecution(WID, CUID, "test"))
    await pair.new.create()

    before, after = await pair.tables()
    before["workflow_executions"][-1]["status"] = 0
    assert before == after
    assert after["workflow_version"][-1]["content"] == "[]"


async def test_row_01_an_execution_is_inserted_into_a_warehouse(newest: Pair) -> None:
    """Newer releases add `whid`; the URIs of such a run carry the warehouse's name."""
    await newest.both(
        "INSERT INTO texera_db.user_warehouse (whid, uid, name, lakekeeper_warehouse_name)"
        " VALUES (701, $1, 'mine', 'user-1-mine')",
        WORLD.owner.user_id,
    )
    old = await newest.old.create_execution(NewExecution(WID, CUID, "e"))
    await newest.old_rows.execute(
        "UPDATE texera_db.workflow_executions SET whid = 701, status = 0 WHERE eid = $1", old
    )

    new = await newest.new.create(warehouse_id=701, environment_version="e")
    uri = f"vfs:///wh/user-1-mine/wid/{WID}/eid/{new}/globalportid/{PORT}/result"
    await newest.old.store_port_result(old, PORT, uri)
    await newest.new.write("PUT", f"/v1/executions/{new}/ports/{PORT}", {"result_uri": uri})
    without = {"result_uri": result_of(new)}
    refused = await newest.new.call("PUT", f"/v1/executions/{new}/ports/{PORT}", without)

    assert refused.outcome == (422, "uri-mismatch")
    before, after = await newest.tables()
    assert before == after


async def test_row_01_hazard_a_warehouse_where_there_are_none_is_refused_as_unsupported(
    now: Pair,
) -> None:
    body = {"workflow_id": WID, "computing_unit_id": CUID, "environment_version": "e"}

    response = await now.new.call("POST", "/v1/executions", body | {"warehouse_id": 701})

    assert response.outcome == (422, "warehouse-unsupported")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "x" * 129}, "name"),
        ({"environment_version": "x" * 129}, "environment_version"),
        ({"workflow_id": 2**31}, "workflow_id"),
        ({"computing_unit_id": 0}, "computing_unit_id"),
        ({"user_id": 2}, "user_id"),
    ],
)
async def test_row_01_hazard_what_no_column_holds_is_one_readable_problem(
    now: Pair, changes: dict[str, Any], field: str
) -> None:
    body = {"workflow_id": WID, "computing_unit_id": CUID, "environment_version": "e"} | changes

    response = await now.new.call("POST", "/v1/executions", body)

    assert response.outcome == (400, "invalid-request")
    assert [error["field"] for error in response.body["errors"]] == [field]


async def test_row_01_hazard_ids_at_the_limit_of_int(now: Pair) -> None:
    limit = 2**31 - 1
    await now.new_rows.execute(
        "SELECT setval('texera_db.workflow_executions_eid_seq', $1, false)", limit
    )

    eid = await now.new.create()
    await now.new.write("PATCH", f"/v1/executions/{eid}", {"status": "COMPLETED"})
    beyond = await now.new.get(f"/v1/executions/{limit + 1}")

    assert eid == limit
    assert (await fetch_row(now.new_rows, eid))["status"] == 3
    assert beyond.outcome == (400, "invalid-request")
    assert str(limit) in beyond.body["detail"]


async def test_row_01_hazard_a_repeated_create_is_one_run(now: Pair) -> None:
    body = {"workflow_id": WID, "computing_unit_id": CUID, "environment_version": "e"}
    key = {"Idempotency-Key": "run-1"}

    responses = [await now.new.call("POST", "/v1/executions", body, headers=key) for _ in range(2)]

    assert responses[0].body == responses[1].body
    assert (
        await now.new_rows.fetchval("SELECT max(eid) FROM texera_db.workflow_executions")
        == (responses[0].body["execution_id"])
    )
