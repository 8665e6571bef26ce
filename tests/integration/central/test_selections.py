"""Executions deleted and bookmarked together: all or none, and what they leave behind."""

import asyncio
from typing import Any

import pytest

from dev.vfs_uri import console_uri, global_port_id, result_uri, runtime_stats_uri
from dev.world import WORLD
from tests.databases import Database, connected
from tests.integration.central.central_fixtures import Reply, Sidecar
from tests.integration.central.rows import execution_by_sql, until_blocking

WID = WORLD.workflow_id
PORT = global_port_id("op-1", 0)


async def select(sidecar: Sidecar, ids: list[int], *, user: Any = WORLD.owner) -> Reply:
    body = {"workflow_id": WID, "execution_ids": ids}
    return await sidecar.call("POST", "/v1/executions/delete", body, user=user)


async def bookmark(sidecar: Sidecar, ids: list[int], bookmarked: bool = True) -> Reply:
    body = {"workflow_id": WID, "execution_ids": ids, "bookmarked": bookmarked}
    return await sidecar.call("POST", "/v1/executions/bookmark", body, user=WORLD.owner)


async def left(connection: Any, *ids: int) -> list[int]:
    """Which of these executions still exist."""
    rows = await connection.fetch(
        "SELECT eid FROM texera_db.workflow_executions WHERE eid = ANY($1) ORDER BY eid", ids
    )
    return [row["eid"] for row in rows]


async def test_deleting_answers_the_uris_and_leaves_no_row_anywhere(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    eid = (await sidecar.create()).body["execution_id"]
    run = f"/v1/executions/{eid}"
    uris = [
        console_uri(WID, eid, "op-1"),
        result_uri(WID, eid, PORT),
        runtime_stats_uri(WID, eid),
    ]
    for method, path, body in (
        ("PUT", f"{run}/operators/op-1/console", {"uri": uris[0]}),
        ("PUT", f"{run}/ports/{PORT}", {"result_uri": uris[1]}),
        ("PATCH", run, {"runtime_stats_uri": uris[2], "status": "COMPLETED"}),
        ("PUT", f"{run}/operator-costs", {"operators": {"op-1": 2}}),
    ):
        assert (await sidecar.call(method, path, body, user=WORLD.owner)).status == 200

    response = await select(sidecar, [eid, eid])

    assert response.body == {"deleted": [{"execution_id": eid, "uris": sorted(uris)}]}
    for table, column in (
        ("texera_db.workflow_executions", "eid"),
        ("texera_db.operator_executions", "workflow_execution_id"),
        ("texera_db.operator_port_executions", "workflow_execution_id"),
        ("cu_metadata.leases", "execution_id"),
        ("cu_metadata.terminal_statuses", "execution_id"),
        ("cu_metadata.operator_costs", "execution_id"),
    ):
        count = await owner_connection.fetchval(
            f"SELECT count(*) FROM {table} WHERE {column} = $1",  # noqa: S608
            eid,
        )
        assert count == 0, table


@pytest.mark.parametrize(
    ("foreign", "outcome"),
    [
        (WORLD.public_execution_id, (404, "execution-not-found")),  # another workflow's
        (999_999, (404, "execution-not-found")),
        (2**31 - 1, (404, "execution-not-found")),
    ],
)
@pytest.mark.parametrize("call", [select, bookmark])
async def test_an_id_that_is_not_the_workflows_refuses_all(
    sidecar: Sidecar, owner_connection: Any, call: Any, foreign: int, outcome: tuple[int, str]
) -> None:
    eid = await execution_by_sql(owner_connection)

    response = await call(sidecar, [eid, foreign])

    assert response.outcome == outcome
    assert str(foreign) in response.body["detail"]
    assert await left(owner_connection, eid) == [eid]
    assert not await owner_connection.fetchval(
        "SELECT bookmarked FROM texera_db.workflow_executions WHERE eid = $1", eid
    )


@pytest.mark.parametrize("call", [select, bookmark])
async def test_an_execution_of_another_user_refuses_all(
    sidecar: Sidecar, owner_connection: Any, call: Any
) -> None:
    mine = await execution_by_sql(owner_connection)
    theirs = await execution_by_sql(owner_connection, uid=WORLD.writer.user_id)

    response = await call(sidecar, [mine, theirs])

    assert response.outcome == (403, "not-the-executions-user")
    assert await left(owner_connection, mine, theirs) == [mine, theirs]


async def test_bookmarks_are_set_and_removed_and_nothing_else_changes(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    eids = [await execution_by_sql(owner_connection, status=1) for _ in range(3)]
    query = "SELECT * FROM texera_db.workflow_executions ORDER BY eid"
    before = [dict(row) for row in await owner_connection.fetch(query)]

    set_ = await bookmark(sidecar, eids[:2])
    during = [dict(row) for row in await owner_connection.fetch(query)]
    removed = await bookmark(sidecar, eids[:2], bookmarked=False)

    assert set_.body == {"execution_ids": eids[:2], "bookmarked": True}
    assert removed.body == {"execution_ids": eids[:2], "bookmarked": False}
    assert [row | {"bookmarked": row["eid"] in eids[:2]} for row in before] == during
    assert [dict(row) for row in await owner_connection.fetch(query)] == before


async def test_a_repeat_with_the_same_key_gets_the_first_answer(
    sidecar: Sidecar, owner_connection: Any
) -> None:
    eid = await execution_by_sql(owner_connection)
    body = {"workflow_id": WID, "execution_ids": [eid]}
    call: dict[str, Any] = {"user": WORLD.owner, "key": "delete-once"}

    first = await sidecar.call("POST", "/v1/executions/delete", body, **call)
    repeat = await sidecar.call("POST", "/v1/executions/delete", body, **call)

    assert first.body == repeat.body == {"deleted": [{"execution_id": eid, "uris": []}]}
    assert (await select(sidecar, [eid])).outcome == (404, "execution-not-found")


async def test_a_demoted_user_deletes_nothing(sidecar: Sidecar, owner_connection: Any) -> None:
    eid = await execution_by_sql(owner_connection)
    await owner_connection.execute(
        """UPDATE texera_db."user" SET role = 'RESTRICTED' WHERE uid = $1""", WORLD.owner.user_id
    )

    assert (await select(sidecar, [eid])).outcome == (403, "user-demoted")
    assert (await bookmark(sidecar, [eid])).outcome == (403, "user-demoted")
    assert await left(owner_connection, eid) == [eid]


async def test_deletes_in_opposite_orders_do_not_deadlock(
    sidecar: Sidecar, owner_connection: Any, database: Database
) -> None:
    """Both wait at the first row, in id order, whatever order they were given."""
    eids = [await execution_by_sql(owner_connection) for _ in range(4)]
    async with connected(database.owner_url) as other, other.transaction():
        await other.execute(
            "SELECT FROM texera_db.workflow_executions WHERE eid = $1 FOR UPDATE", eids[0]
        )
        calls = [asyncio.ensure_future(select(sidecar, order)) for order in (eids, eids[::-1])]
        await until_blocking(other)

    responses = await asyncio.gather(*calls)

    deleted = [len(response.body.get("deleted", [])) for response in responses]
    assert sorted(deleted) == [0, 4]
    assert await left(owner_connection, *eids) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"execution_ids": [1]}, "workflow_id"),
        ({"workflow_id": WID}, "execution_ids"),
        ({"workflow_id": WID, "execution_ids": []}, "execution_ids"),
        ({"workflow_id": WID, "execution_ids": [0]}, "execution_ids[0]"),
        ({"workflow_id": WID, "execution_ids": [2**31]}, "execution_ids[0]"),
        ({"workflow_id": WID, "execution_ids": list(range(1, 1002))}, "execution_ids"),
        ({"workflow_id": WID, "execution_ids": [1], "eids": 1}, "eids"),
    ],
)
@pytest.mark.parametrize("path", ["delete", "bookmark"])
async def test_bad_input_is_one_problem_that_names_the_field(
    sidecar: Sidecar, path: str, body: dict[str, Any], field: str
) -> None:
    body = body | ({"bookmarked": True} if path == "bookmark" else {})

    response = await sidecar.call("POST", f"/v1/executions/{path}", body, user=WORLD.owner)

    assert response.outcome == (400, "invalid-request")
    assert [error["field"] for error in response.body["errors"]] == [field]


async def test_a_uri_that_is_committed_while_a_deletion_waits_is_returned_with_it(
    sidecar: Sidecar, database: Database, owner_connection: Any
) -> None:
    """Its row is deleted by Texera's cascade: a URI that is not returned is never cleaned up."""
    eid = (await sidecar.create()).body["execution_id"]
    uri = result_uri(WID, eid, PORT)
    async with connected(database.superuser_url) as writer, writer.transaction():
        await writer.execute(
            "INSERT INTO texera_db.operator_port_executions VALUES ($1, $2, $3, 7)",
            eid,
            PORT,
            uri,
        )
        deletion = asyncio.create_task(select(sidecar, [eid]))
        await until_blocking(writer)

    assert (await deletion).body == {"deleted": [{"execution_id": eid, "uris": [uri]}]}
    assert await left(owner_connection, eid) == []
