"""Executions are read as they are stored, one query a call."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from dev.vfs_uri import runtime_stats_uri
from dev.world import WORLD
from tests.integration.central.central_fixtures import Reply, Sidecar
from tests.integration.central.rows import execution_by_sql

RUNS = f"/v1/workflows/{WORLD.workflow_id}/executions"


def age_s(text: str) -> float:
    assert text.endswith("Z")
    return (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()


def ids(reply: Reply) -> Sequence[int]:
    return [row["execution_id"] for row in reply.body["executions"]]


async def test_a_row_is_answered_with_every_column(sidecar: Sidecar) -> None:
    completed = WORLD.completed_execution_id

    reply = await sidecar.get(f"/v1/executions/{completed}")

    row = reply.body
    assert reply.status == 200
    assert age_s(row.pop("started_at")) > age_s(row.pop("updated_at")) > 0
    assert row == {
        "execution_id": completed,
        "workflow_id": WORLD.workflow_id,
        "version_id": WORLD.version_id,
        "computing_unit_id": WORLD.computing_unit_id,
        "user_id": WORLD.owner.user_id,
        "status": "COMPLETED",
        "status_code": 3,
        "result": None,
        "name": "Untitled Execution",
        "bookmarked": False,
        "environment_version": '{"engine_version":"sample"}',
        "log_location": None,
        "runtime_stats_uri": runtime_stats_uri(WORLD.workflow_id, completed),
        "runtime_stats_bytes": 4096,
    }


async def test_texeras_oldest_rows_are_answered_too(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    """jOOQ leaves NULL in columns that nobody set, and writes -1 for a state without a code."""
    execution_id = await execution_by_sql(
        owner_connection, cuid=None, status=-1, bookmarked=None, runtime_stats_size=None
    )

    row = (await sidecar.get(f"/v1/executions/{execution_id}")).body

    assert (row["computing_unit_id"], row["status"], row["status_code"]) == (None, "UNKNOWN", -1)
    assert (row["bookmarked"], row["runtime_stats_bytes"], row["updated_at"]) == (False, 0, None)


async def test_the_latest_is_the_newest_of_its_workflow_and_unit(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    newest = await execution_by_sql(owner_connection, cuid=WORLD.other_computing_unit_id)

    assert (await sidecar.get(f"{RUNS}/latest")).body["execution_id"] == newest
    here = await sidecar.get(f"{RUNS}/latest?computing_unit_id={WORLD.computing_unit_id}")
    assert here.body["execution_id"] == WORLD.completed_execution_id
    nowhere = await sidecar.get(f"{RUNS}/latest?computing_unit_id=999")
    assert nowhere.outcome == (404, "no-execution")


async def test_a_list_is_paged_newest_first(sidecar: Sidecar, owner_connection: Any) -> None:
    made = [await execution_by_sql(owner_connection) for _ in range(5)]
    every = [*reversed(made), WORLD.completed_execution_id, WORLD.failed_execution_id]

    first = await sidecar.get(f"{RUNS}?limit=3")
    second = await sidecar.get(f"{RUNS}?limit=3&before={first.body['next_before']}")
    third = await sidecar.get(f"{RUNS}?limit=3&before={second.body['next_before']}")

    assert (ids(first), ids(second), ids(third)) == (every[:3], every[3:6], every[6:])
    assert third.body["next_before"] is None
    assert (await sidecar.get(f"{RUNS}?limit=7")).body["next_before"] is None
    assert ids(await sidecar.get(RUNS)) == every


async def test_a_list_has_fifty_rows_by_default(sidecar: Sidecar, owner_connection: Any) -> None:
    made = [await execution_by_sql(owner_connection) for _ in range(60)]

    assert ids(await sidecar.get(RUNS)) == made[:9:-1]


async def test_a_list_is_filtered_by_status_and_unit(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    other = WORLD.other_computing_unit_id
    running = await execution_by_sql(owner_connection, status=1)
    odd = await execution_by_sql(owner_connection, status=-1)
    ready_elsewhere = await execution_by_sql(owner_connection, status=0, cuid=other)

    async def listed(query: str) -> Sequence[int]:
        return ids(await sidecar.get(f"{RUNS}?{query}"))

    assert await listed("status=running") == [running]
    assert await listed("status=1,COMPLETED") == [running, WORLD.completed_execution_id]
    assert await listed("status=-1") == [odd]
    assert await listed("status=ready,uninitialized") == [ready_elsewhere]
    assert await listed(f"computing_unit_id={other}") == [ready_elsewhere]
    assert await listed(f"computing_unit_id={other}&status=RUNNING") == []
    assert await listed("status=KILLED") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=done", "status"),
        ("status=", "status"),
        ("status=9", "status"),
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=many", "limit"),
        ("before=0", "before"),
        ("colour=red", "colour"),
        ("limit=1&limit=2", "limit"),
    ],
)
async def test_a_wrong_query_names_its_parameter(sidecar: Sidecar, query: str, field: str) -> None:
    reply = await sidecar.get(f"{RUNS}?{query}")

    assert reply.outcome == (400, "invalid-request")
    assert [error["field"] for error in reply.body["errors"]] == [field]
