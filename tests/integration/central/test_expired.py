"""Clean-up per computing unit: what is found, what is cleared, and whose rows are left alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dev.world import WORLD
from tests.integration.central.central_fixtures import Reply, Sidecar
from tests.integration.central.rows import execution_by_sql

UNIT = f"/v1/computing-units/{WORLD.computing_unit_id}/expired-executions"
OTHER = f"/v1/computing-units/{WORLD.other_computing_unit_id}/expired-executions"
DAY_S = 86_400
LONG_AGO = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=30)
POINTS = {"status": 3, "result": "r", "starting_time": LONG_AGO}


async def expired(sidecar: Sidecar, query: str = f"ttl_seconds={DAY_S}") -> list[int]:
    response = await sidecar.get(f"{UNIT}?{query}")
    assert response.status == 200, response.body
    return [row["execution_id"] for row in response.body["executions"]]


async def clear(sidecar: Sidecar, ids: list[int], unit: str = UNIT) -> Reply:
    return await sidecar.call("POST", f"{unit}/clear", {"execution_ids": ids}, user=WORLD.owner)


async def test_only_ended_old_pointing_runs_of_the_unit_are_found(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    async def run(**columns: Any) -> int:
        return await execution_by_sql(owner_connection, **(POINTS | columns))

    now = datetime.now(UTC).replace(tzinfo=None)
    with_result = await run()
    with_log = await run(result=None, log_location="file:///l", status=5)
    never_updated = await run(last_update_time=None)
    await run(last_update_time=now)  # too young
    await run(starting_time=now)
    await run(result="", log_location="")  # points to nothing
    await run(result=None)
    for status in (0, 1, 2, -1):
        await run(status=status)  # not ended
    await run(cuid=WORLD.other_computing_unit_id)
    await run(cuid=None)

    found = await expired(sidecar)

    assert found == [WORLD.failed_execution_id, with_result, with_log, never_updated]
    assert await expired(sidecar, f"ttl_seconds={DAY_S}&limit=2") == found[:2]
    assert await expired(sidecar, f"ttl_seconds={31 * DAY_S}") == []


async def test_clearing_empties_two_columns_and_leaves_the_rest(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    eid = await execution_by_sql(
        owner_connection, **POINTS, log_location="file:///l", name="kept", bookmarked=True
    )
    query = "SELECT * FROM texera_db.workflow_executions ORDER BY eid"
    before = [dict(row) for row in await owner_connection.fetch(query)]

    response = await clear(sidecar, [eid])

    assert response.body == {"cleared": [eid]}
    cleared = {"result": "", "log_location": None}
    assert [dict(row) for row in await owner_connection.fetch(query)] == [
        row | (cleared if row["eid"] == eid else {}) for row in before
    ]
    assert eid not in await expired(sidecar)


@pytest.mark.parametrize(
    ("columns", "outcome"),
    [
        ({"cuid": WORLD.other_computing_unit_id}, (404, "execution-not-found")),
        ({"cuid": None}, (404, "execution-not-found")),
        ({"status": 1}, (409, "execution-not-ended")),
        ({"status": -1}, (409, "execution-not-ended")),
    ],
)
async def test_a_foreign_or_open_run_refuses_the_whole_call(
    sidecar: Sidecar, owner_connection: Any, columns: dict[str, Any], outcome: tuple[int, str]
) -> None:
    own = await execution_by_sql(owner_connection, **POINTS)
    other = await execution_by_sql(owner_connection, **(POINTS | columns))

    response = await clear(sidecar, [own, other])

    assert response.outcome == outcome
    assert str(other) in response.body["detail"]
    results = await owner_connection.fetch(
        "SELECT result FROM texera_db.workflow_executions WHERE eid = ANY($1)", [own, other]
    )
    assert [row["result"] for row in results] == ["r", "r"]


async def test_another_units_runs_are_out_of_reach(sidecar: Sidecar) -> None:
    response = await clear(sidecar, [WORLD.other_unit_execution_id], OTHER)

    assert response.outcome == (404, "computing-unit-not-found")


async def test_a_demoted_user_clears_nothing(sidecar: Sidecar, owner_connection: Any) -> None:
    await owner_connection.execute(
        """UPDATE texera_db."user" SET role = 'RESTRICTED' WHERE uid = $1""", WORLD.owner.user_id
    )

    response = await clear(sidecar, [WORLD.failed_execution_id])

    assert response.outcome == (403, "user-demoted")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "ttl_seconds"),
        ("ttl_seconds=-1", "ttl_seconds"),
        ("ttl_seconds=soon", "ttl_seconds"),
        ("ttl_seconds=1&limit=501", "limit"),
        ("ttl_seconds=1&limit=0", "limit"),
        ("ttl_seconds=1&cuid=1", "cuid"),
    ],
)
async def test_bad_queries_name_the_field(sidecar: Sidecar, query: str, field: str) -> None:
    response = await sidecar.get(f"{UNIT}?{query}")

    assert response.outcome == (400, "invalid-request")
    assert [error["field"] for error in response.body["errors"]] == [field]
