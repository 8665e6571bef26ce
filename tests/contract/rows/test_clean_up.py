"""Rows 14 and 15 of the contract: what a run leaves behind is cleared away."""

from datetime import UTC, datetime, timedelta
from typing import Any

from dev.vfs_uri import runtime_stats_uri
from dev.world import WORLD
from tests.contract.rows.pairs import (
    CUID,
    OPERATOR,
    PORT,
    WID,
    Pair,
    console_of,
    fetch_row,
    result_of,
    run_of,
    store_result,
)

DAY_S = 86_400
EXPIRED = (
    "SELECT eid FROM texera_db.workflow_executions WHERE ((last_update_time IS NULL"
    " AND starting_time < $1) OR last_update_time < $1) AND (result <> '' OR log_location <> '')"
    " ORDER BY eid"
)
ONE_TIME_CLEAR = (
    "UPDATE texera_db.workflow_executions SET result = '', log_location = NULL,"
    " status = CASE status WHEN 3 THEN 3 ELSE 4 END"
    " WHERE (last_update_time < $1 OR (last_update_time IS NULL AND starting_time < $1))"
    " AND (result <> '' OR log_location <> '')"
)
CLEAR = "UPDATE texera_db.workflow_executions SET result = '', log_location = NULL WHERE eid = $1"
UNIT = f"/v1/computing-units/{CUID}/expired-executions"


def a_day_ago() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None) - timedelta(days=1)


# Row 14: clearExecutionResources ------------------------------------------------------------------


async def test_row_14_an_executions_uris_are_cleared(pair: Pair) -> None:
    eid = await pair.started()
    await store_result(pair, eid)
    await store_result(pair, eid, "a row of no port", "vfs:///torn")
    await pair.both(
        "INSERT INTO texera_db.operator_executions VALUES ($1, $2, $3, 9)",
        eid,
        OPERATOR,
        console_of(eid),
    )
    results = await pair.old.result_uris(eid)

    await pair.old.clear_uris(eid)
    removed = await pair.new.call("DELETE", f"{run_of(eid)}/uris")

    assert sorted(row["uri"] for row in removed.body["results"]) == sorted(results)
    assert removed.body["console"] == [
        {"operator_id": OPERATOR, "uri": console_of(eid), "bytes": 9}
    ]
    before, after = await pair.tables()
    assert before == after


async def test_row_14_an_earlier_runs_uris_are_cleared_by_the_same_user(pair: Pair) -> None:
    """At each start of a run, of the one before it, which no sidecar has ever written to."""
    eid = WORLD.completed_execution_id

    await pair.old.clear_uris(eid)
    removed = await pair.new.call("DELETE", f"{run_of(eid)}/uris")

    assert len(removed.body["results"]) == 2
    before, after = await pair.tables()
    assert before == after


async def test_row_14_hazard_what_was_written_before_a_clean_up_is_gone_after_it(
    now: Pair,
) -> None:
    """A late writer of the run before could store its URI again; in one queue it comes first."""
    eid = await now.started()
    async with now.new_rows.transaction():
        await now.new_rows.execute(
            "SELECT FROM texera_db.workflow_executions WHERE eid = $1 FOR UPDATE", eid
        )
        late = await now.new.call(
            "PUT", f"{run_of(eid)}/ports/{PORT}", {"result_uri": result_of(eid)}
        )
    removed = await now.new.call("DELETE", f"{run_of(eid)}/uris")

    assert late.status == 202
    assert [row["uri"] for row in removed.body["results"]] == [result_of(eid)]
    before, after = await now.tables()
    assert before == after


async def test_row_14_hazard_a_clean_up_leaves_other_runs_alone(now: Pair) -> None:
    mine, other = await now.started(), await now.started()
    for eid in (mine, other):
        await store_result(now, eid)

    response = await now.new.call("DELETE", f"{run_of(mine)}/uris")
    foreign = await now.new.call("DELETE", f"{run_of(other)}/uris", user=WORLD.stranger)

    assert len(response.body["results"]) == 1
    assert foreign.outcome == (404, "execution-not-found")
    left = await now.new_rows.fetch(
        "SELECT workflow_execution_id FROM texera_db.operator_port_executions"
        " WHERE workflow_execution_id = ANY($1)",
        [mine, other],
    )
    assert [row[0] for row in left] == [other]


async def test_row_14_statistics_outlive_the_clean_up(now: Pair) -> None:
    """The estimator of the next run still reads them."""
    eid = await now.started()
    stats: dict[str, Any] = {"runtime_stats_uri": runtime_stats_uri(WID, eid)}
    await now.new.write("PATCH", run_of(eid), stats)

    await now.new.call("DELETE", f"{run_of(eid)}/uris")

    uris = await now.new.get(f"{run_of(eid)}/uris")
    assert uris.body["runtime_stats"]["uri"] == stats["runtime_stats_uri"]


# Row 15: recurringCheckExpiredResults -------------------------------------------------------------


async def test_row_15_expired_results_of_the_unit_are_cleared(pair: Pair) -> None:
    await pair.both(
        "UPDATE texera_db.workflow_executions SET result = 'r' WHERE eid = $1",
        WORLD.completed_execution_id,
    )
    expired = [row["eid"] for row in await pair.old_rows.fetch(EXPIRED, a_day_ago())]

    found = await pair.new.get(f"{UNIT}?ttl_seconds={DAY_S}")
    for eid in expired:
        await pair.old_rows.execute(CLEAR, eid)
    cleared = await pair.new.call("POST", f"{UNIT}/clear", {"execution_ids": expired})

    assert [row["execution_id"] for row in found.body["executions"]] == expired
    assert cleared.body == {"cleared": expired}
    before, after = await pair.tables()
    assert before == after


async def test_row_15_hazard_a_killed_run_is_not_made_a_failed_one(now: Pair) -> None:
    """At a server's start, whatever was no COMPLETED run and pointed to something became FAILED."""
    eid = WORLD.completed_execution_id
    await now.both(
        "UPDATE texera_db.workflow_executions SET status = 5, result = 'r' WHERE eid = $1", eid
    )

    await now.old_rows.execute(ONE_TIME_CLEAR, a_day_ago())
    cleared = await now.new.call("POST", f"{UNIT}/clear", {"execution_ids": [eid]})

    assert cleared.body == {"cleared": [eid]}
    assert (await fetch_row(now.old_rows, eid))["status"] == 4
    row = await fetch_row(now.new_rows, eid)
    assert (row["status"], row["result"], row["log_location"]) == (5, "", None)


async def test_row_15_hazard_other_units_rows_and_running_ones_are_left_alone(now: Pair) -> None:
    """The old query had no filter by unit: each unit selected every unit's rows."""
    await now.both("UPDATE texera_db.workflow_executions SET log_location = 'file:///log'")
    selected = [row["eid"] for row in await now.old_rows.fetch(EXPIRED, a_day_ago())]
    foreign = {WORLD.stuck_execution_id, WORLD.other_unit_execution_id}

    found = await now.new.get(f"{UNIT}?ttl_seconds={DAY_S}")
    refused = await now.new.call("POST", f"{UNIT}/clear", {"execution_ids": selected})

    mine = [row["execution_id"] for row in found.body["executions"]]
    assert foreign < set(selected)
    assert mine == [eid for eid in selected if eid not in foreign]
    assert refused.outcome == (404, "execution-not-found")
    before, after = await now.tables()
    assert before == after
