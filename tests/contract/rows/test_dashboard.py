"""Row 18 of the contract: what the executions' resource serves to people."""

import pytest

from dev.world import WORLD
from tests.contract.rows.pairs import CUID, WID, Pair, fetch_row

LIST = (
    "SELECT e.eid, e.vid, e.cuid, e.status, e.result, e.bookmarked, e.name, e.log_location"
    " FROM texera_db.workflow_executions e"
    ' JOIN texera_db.workflow_version v ON v.vid = e.vid JOIN texera_db."user" u ON u.uid = e.uid'
    " WHERE v.wid = $1 AND ($2::int[] IS NULL OR e.status = ANY ($2)) ORDER BY e.eid DESC"
)


# Row 18: WorkflowExecutionsResource ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "codes"),
    [
        (None, None),
        ("COMPLETED", [3]),
        ("completed,FAILED", [3, 4]),
        ("3, 4", [3, 4]),
        ("initializing", [0]),
        ("RUNNING", [1]),
    ],
)
async def test_row_18_executions_are_listed_newest_first(
    pair: Pair, status: str | None, codes: list[int] | None
) -> None:
    await pair.started()
    old = [dict(row) for row in await pair.old_rows.fetch(LIST, WID, codes)]

    query = f"?status={status}" if status else ""
    new = await pair.new.get(f"/v1/workflows/{WID}/executions{query}")

    columns = {
        "eid": "execution_id", "vid": "version_id", "cuid": "computing_unit_id",
        "status": "status_code", "result": "result", "bookmarked": "bookmarked", "name": "name",
        "log_location": "log_location",
    }  # fmt: skip
    found = [
        {column: row[name] for column, name in columns.items()} for row in new.body["executions"]
    ]
    assert found == old
    assert new.body["next_before"] is None


async def test_row_18_a_long_list_comes_in_pages_without_gap_or_repeat(now: Pair) -> None:
    await now.new_rows.execute(
        "INSERT INTO texera_db.workflow_executions (vid, uid, cuid, environment_version)"
        " SELECT $1, $2, $3, 'e' FROM generate_series(1, 25)",
        WORLD.version_id,
        WORLD.owner.user_id,
        CUID,
    )
    whole = [row["eid"] for row in await now.new_rows.fetch(LIST, WID, None)]

    pages, before = [], ""
    while True:
        page = (await now.new.get(f"/v1/workflows/{WID}/executions?limit=10{before}")).body
        pages.append([row["execution_id"] for row in page["executions"]])
        if page["next_before"] is None:
            break
        before = f"&before={page['next_before']}"

    assert [len(page) for page in pages] == [10, 10, 7]
    assert [eid for page in pages for eid in page] == whole


async def test_row_18_the_statistics_of_a_workflows_execution_are_found(pair: Pair) -> None:
    eid = WORLD.completed_execution_id
    old = await pair.old_rows.fetchval(
        "SELECT runtime_stats_uri FROM texera_db.workflow_executions WHERE eid = $2"
        " AND vid IN (SELECT vid FROM texera_db.workflow_version WHERE wid = $1)",
        WID,
        eid,
    )

    new = await pair.new.get(f"/v1/workflows/{WID}/executions/{eid}")

    assert new.body["runtime_stats_uri"] == old


async def test_row_18_executions_are_deleted_with_all_that_hangs_on_them(pair: Pair) -> None:
    ids = [WORLD.completed_execution_id, WORLD.failed_execution_id]

    await pair.old_rows.execute(
        "DELETE FROM texera_db.workflow_executions WHERE eid = ANY ($1)", ids
    )
    response = await pair.new.call(
        "POST", "/v1/executions/delete", {"workflow_id": WID, "execution_ids": ids}
    )

    assert [row["execution_id"] for row in response.body["deleted"]] == sorted(ids)
    before, after = await pair.tables()
    assert before == after


@pytest.mark.parametrize("bookmarked", [True, False])
async def test_row_18_executions_are_bookmarked(pair: Pair, bookmarked: bool) -> None:
    ids = [WORLD.completed_execution_id, WORLD.failed_execution_id]

    await pair.old_rows.execute(
        "UPDATE texera_db.workflow_executions SET bookmarked = $2 WHERE eid = ANY ($1)",
        ids,
        bookmarked,
    )
    await pair.new.call(
        "POST",
        "/v1/executions/bookmark",
        {"workflow_id": WID, "execution_ids": ids, "bookmarked": bookmarked},
    )

    before, after = await pair.tables()
    assert before == after


async def test_row_18_an_execution_is_renamed(pair: Pair) -> None:
    eid = WORLD.completed_execution_id

    await pair.old_rows.execute(
        "UPDATE texera_db.workflow_executions SET name = 'renamed' WHERE eid = $1", eid
    )
    await pair.new.write("PATCH", f"/v1/executions/{eid}", {"name": "renamed"})

    before, after = await pair.tables()
    assert before == after


async def test_row_18_hazard_another_workflows_executions_are_not_deleted(now: Pair) -> None:
    """The old calls looked at the workflow that was named, and deleted whatever ids came along."""
    ids = [WORLD.completed_execution_id, WORLD.other_unit_execution_id]

    for call, more in (("delete", {}), ("bookmark", {"bookmarked": True})):
        response = await now.new.call(
            "POST", f"/v1/executions/{call}", {"workflow_id": WID, "execution_ids": ids} | more
        )
        assert response.outcome == (404, "execution-not-found")

    before, after = await now.tables()
    assert before == after


async def test_row_18_hazard_a_reader_changes_nothing(now: Pair) -> None:
    eid = WORLD.completed_execution_id
    selected = {"workflow_id": WID, "execution_ids": [eid]}

    responses = [
        await now.new.call("POST", "/v1/executions/delete", selected, user=WORLD.reader),
        await now.new.call("PATCH", f"/v1/executions/{eid}", {"name": "mine"}, user=WORLD.reader),
    ]

    assert {response.outcome for response in responses} == {(403, "not-the-executions-user")}
    assert (await fetch_row(now.new_rows, eid))["name"] == "Untitled Execution"


@pytest.mark.parametrize("status", ["DONE", "3,DONE", "", "9", "3,,4"])
async def test_row_18_hazard_an_unknown_status_is_returned(now: Pair, status: str) -> None:
    response = await now.new.get(f"/v1/workflows/{WID}/executions?status={status}")

    assert response.outcome == (400, "invalid-request")
    assert [error["field"] for error in response.body["errors"]] == ["status"]
