"""Rows 2 to 5 of the contract: a run changes, and is found again."""

import asyncio

import pytest

from dev.vfs_uri import runtime_stats_uri
from dev.world import WORLD
from tests.contract.rows.pairs import CUID, PORT, WID, Pair, fetch_row, result_of

FULL_ROW_UPDATE = (
    "UPDATE texera_db.workflow_executions SET status = $2, result = $3, bookmarked = $4,"
    " name = $5, log_location = $6, runtime_stats_uri = $7, runtime_stats_size = $8 WHERE eid = $1"
)


# Row 2: tryUpdateExistingExecution ----------------------------------------------------------------


@pytest.mark.parametrize(
    "statuses",
    [
        ["READY", "RUNNING", "COMPLETED"],
        ["RUNNING", "PAUSED", "RUNNING", "FAILED"],
        ["RUNNING", "KILLED"],
        ["KILLED", "COMPLETED"],
        ["RUNNING", "COMPLETED", "COMPLETED"],
    ],
    ids=" ".join,
)
async def test_row_02_a_status_is_changed(pair: Pair, statuses: list[str]) -> None:
    eid = await pair.started()

    for status in statuses:
        await pair.old.store_status(eid, status)
        await pair.new.write("PATCH", f"/v1/executions/{eid}", {"status": status})

    before, after = await pair.tables()
    assert before == after


@pytest.mark.parametrize("location", ["file:///logs/1", "", None])
async def test_row_02_a_log_location_is_set_and_taken_away(
    pair: Pair, location: str | None
) -> None:
    eid = await pair.started(log_location="file:///earlier", result="r")

    await pair.old_rows.execute(
        "UPDATE texera_db.workflow_executions SET log_location = $2 WHERE eid = $1", eid, location
    )
    await pair.new.write("PATCH", f"/v1/executions/{eid}", {"log_location": location})

    before, after = await pair.tables()
    assert before == after


async def test_row_02_hazard_a_rename_between_read_and_write_survives(now: Pair) -> None:
    eid = await now.started(name="first")
    rename = "UPDATE texera_db.workflow_executions SET name = 'renamed', bookmarked = true"

    # The old way: the row is read, renamed by the dashboard, and written back with its old name.
    read = await fetch_row(now.old_rows, eid)
    await now.old_rows.execute(f"{rename} WHERE eid = $1", eid)
    kept = ("result", "bookmarked", "name", "log_location", "runtime_stats_uri")
    await now.old_rows.execute(
        FULL_ROW_UPDATE, eid, 3, *(read[name] for name in kept), read["runtime_stats_size"]
    )
    # The new one: the change of status waits for the very row that is being renamed.
    async with now.new_rows.transaction():
        await now.new_rows.execute(f"{rename} WHERE eid = $1", eid)
        change = await now.new.call("PATCH", f"/v1/executions/{eid}", {"status": "COMPLETED"})
    await now.new.call("POST", "/v1/flush?timeout=30")

    lost, survived = await fetch_row(now.old_rows, eid), await fetch_row(now.new_rows, eid)
    assert change.status == 202
    assert (lost["name"], lost["bookmarked"], lost["status"]) == ("first", False, 3)
    assert (survived["name"], survived["bookmarked"], survived["status"]) == ("renamed", True, 3)


@pytest.mark.parametrize("late", ["RUNNING", "PAUSING", "READY"])
async def test_row_02_hazard_a_late_status_does_not_reopen_a_run(now: Pair, late: str) -> None:
    eid = await now.started()
    for status in ("COMPLETED", late):
        await now.old.store_status(eid, status)
        await now.new.call("PATCH", f"/v1/executions/{eid}", {"status": status})
    await now.new.call("POST", "/v1/flush?timeout=30")

    assert (await fetch_row(now.old_rows, eid))["status"] != 3
    assert (await fetch_row(now.new_rows, eid))["status"] == 3


@pytest.mark.parametrize(("length", "status"), [(128, 200), (129, 400)])
async def test_row_02_hazard_a_rename_of_129_characters_is_refused_at_once(
    now: Pair, length: int, status: int
) -> None:
    eid = await now.started(name="first")

    response = await now.new.call(
        "PATCH", f"/v1/executions/{eid}", {"name": "ß" * length}, headers={"Prefer": "wait=30"}
    )

    assert response.status == status
    name = (await fetch_row(now.new_rows, eid))["name"]
    assert name == ("ß" * 128 if status == 200 else "first")
    if status == 400:
        assert [error["field"] for error in response.body["errors"]] == ["name"]
        assert "128" in response.body["detail"]
        assert "write_id" not in response.body  # at once: it never became a write


async def test_row_02_hazard_a_workflow_deleted_in_mid_run_ends_its_writes_and_no_others(
    now: Pair,
) -> None:
    doomed, other = await now.new.create(), await now.new.create()
    await now.new_rows.execute(
        "UPDATE texera_db.workflow_executions SET vid = $2 WHERE eid = $1",
        other,
        WORLD.public_version_id,
    )
    await now.new_rows.execute("DELETE FROM texera_db.workflow WHERE wid = $1", WID)

    uri = {"result_uri": result_of(doomed)}
    writes = [
        await now.new.call("PATCH", f"/v1/executions/{doomed}", {"status": "RUNNING"}),
        await now.new.call("PUT", f"/v1/executions/{doomed}/ports/{PORT}", uri),
        await now.new.call("PATCH", f"/v1/executions/{other}", {"status": "COMPLETED"}),
    ]
    flushed = await now.new.call("POST", "/v1/flush?timeout=30")

    ends = [await now.new.get(f"/v1/writes/{write.body['write_id']}") for write in writes]
    assert flushed.status == 200
    assert [end.body["state"] for end in ends] == ["refused", "refused", "committed"]
    assert ends[0].body["problem"]["type"] == "execution-not-found"
    assert (await fetch_row(now.new_rows, other))["status"] == 3


# Row 3: tryGetExistingExecution -------------------------------------------------------------------


@pytest.mark.parametrize(
    "eid", [WORLD.completed_execution_id, WORLD.failed_execution_id, WORLD.public_execution_id]
)
async def test_row_03_an_execution_is_read(pair: Pair, eid: int) -> None:
    old = await fetch_row(pair.old_rows, eid)

    for target in (f"/v1/executions/{eid}", f"/v1/workflows/{workflow_of(eid)}/executions/{eid}"):
        new = (await pair.new.get(target)).body
        columns = {
            "eid": "execution_id", "vid": "version_id", "uid": "user_id",
            "cuid": "computing_unit_id", "status": "status_code", "result": "result",
            "name": "name", "bookmarked": "bookmarked", "log_location": "log_location",
            "environment_version": "environment_version",
            "runtime_stats_uri": "runtime_stats_uri", "runtime_stats_size": "runtime_stats_bytes",
        }  # fmt: skip
        assert {column: new[name] for column, name in columns.items()} == {
            column: old[column] for column in columns
        }
        assert new["started_at"] == old["starting_time"].isoformat() + "Z"
        assert new["updated_at"] == old["last_update_time"].isoformat() + "Z"


async def test_row_03_hazard_another_workflows_execution_is_not_replayed(now: Pair) -> None:
    """Once, a replay was read by the execution's id alone, whatever workflow was asked about."""
    eid = WORLD.failed_execution_id

    response = await now.new.get(f"/v1/workflows/{WORLD.public_workflow_id}/executions/{eid}")

    assert (await fetch_row(now.old_rows, eid))["log_location"]
    assert response.outcome == (404, "execution-not-found")


# Row 4: getLatestExecutionID ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workflow", "unit"),
    [
        (WID, CUID),
        (WORLD.public_workflow_id, CUID),
        (WORLD.public_workflow_id, WORLD.other_computing_unit_id),
        (WID, WORLD.other_computing_unit_id),
    ],
)
async def test_row_04_the_latest_execution_is_found(pair: Pair, workflow: int, unit: int) -> None:
    old = await pair.old.latest_execution(workflow, unit)

    new = await pair.new.get(f"/v1/workflows/{workflow}/executions/latest?computing_unit_id={unit}")

    if old is None:
        assert new.outcome == (404, "no-execution")
    else:
        assert new.body["execution_id"] == old


async def test_row_04_hazard_the_latest_of_another_unit_is_not_taken(now: Pair) -> None:
    """Results of a stranger's run were once deleted as those of the latest execution."""
    mine = await now.started()
    await now.both(
        "INSERT INTO texera_db.workflow_executions (eid, vid, uid, cuid, environment_version)"
        " VALUES ($1, $2, $3, $4, 'e')",
        mine + 1,
        WORLD.version_id,
        WORLD.writer.user_id,
        WORLD.other_computing_unit_id,
    )

    here = await now.new.get(f"/v1/workflows/{WID}/executions/latest?computing_unit_id={CUID}")
    anywhere = await now.new.get(f"/v1/workflows/{WID}/executions/latest")

    assert here.body["execution_id"] == await now.old.latest_execution(WID, CUID) == mine
    assert anywhere.body["execution_id"] == mine + 1


# Row 5: updateRuntimeStatsUri ---------------------------------------------------------------------


async def test_row_05_the_statistics_uri_is_stored(pair: Pair) -> None:
    eid = await pair.started()
    uri = runtime_stats_uri(WID, eid)

    await pair.old.store_runtime_stats_uri(WID, eid, uri)
    await pair.new.write("PATCH", f"/v1/executions/{eid}", {"runtime_stats_uri": uri})

    before, after = await pair.tables()
    assert before == after


async def test_row_05_hazard_a_wrong_workflow_is_refused_and_not_ignored(now: Pair) -> None:
    eid = await now.started()
    foreign = runtime_stats_uri(WORLD.public_workflow_id, eid)

    await now.old.store_runtime_stats_uri(WORLD.public_workflow_id, eid, foreign)
    response = await now.new.call(
        "PATCH", f"/v1/executions/{eid}", {"runtime_stats_uri": foreign, "name": "not stored"}
    )

    assert (await fetch_row(now.old_rows, eid))["runtime_stats_uri"] is None
    assert response.outcome == (422, "uri-mismatch")
    before, after = await now.tables()
    assert before == after


async def test_row_05_hazard_statistics_survive_a_status_made_meanwhile(now: Pair) -> None:
    """Written between the old way's SELECT and its UPDATE of every column, they were lost."""
    eid = await now.started()
    uri = runtime_stats_uri(WID, eid)
    run = f"/v1/executions/{eid}"

    await asyncio.gather(
        *(now.new.write("PATCH", run, {"status": "RUNNING"}) for _ in range(5)),
        now.new.write("PATCH", run, {"runtime_stats_uri": uri, "runtime_stats_bytes": 2**40}),
        *(now.new.write("PATCH", run, {"status": "PAUSED"}) for _ in range(5)),
    )

    row = await fetch_row(now.new_rows, eid)
    assert (row["runtime_stats_uri"], row["runtime_stats_size"]) == (uri, 2**40)


def workflow_of(eid: int) -> int:
    return WORLD.public_workflow_id if eid == WORLD.public_execution_id else WID
