"""Forwarded calls through a real sidecar: in order after pending writes, never cached."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dev.vfs_uri import console_uri, global_port_id, result_uri, runtime_stats_uri
from dev.world import WORLD
from sidecar.forwarded import STATUS_WAIT_S
from tests.databases import Database
from tests.stacks import COMMITTED, LocalReply, Stack, running_stack

WID = WORLD.workflow_id
PORT = global_port_id("op-1", 0)


@pytest.fixture
async def stack(database: Database, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(database.central_url, tmp_path) as stack:
        yield stack


def selected(*ids: int, **more: Any) -> dict[str, Any]:
    return {"workflow_id": WID, "execution_ids": list(ids)} | more


async def test_a_deleted_execution_is_not_served_from_the_cache(stack: Stack) -> None:
    eid = await stack.create()
    uri = result_uri(WID, eid, PORT)
    await stack.write("PUT", f"/v1/executions/{eid}/ports/{PORT}", {"result_uri": uri})
    known = await stack.get(f"/v1/executions/{eid}/uris")

    response = await stack.call("POST", "/v1/executions/delete", selected(eid))

    assert known.headers["X-Cache"] == "hit"
    assert response.body == {"deleted": [{"execution_id": eid, "uris": [uri]}]}
    for target in (f"/v1/executions/{eid}/uris", f"/v1/executions/{eid}"):
        assert (await stack.get(target)).outcome == (404, "execution-not-found")


async def test_a_write_to_a_deleted_execution_is_refused(stack: Stack) -> None:
    eid = await stack.create()
    await stack.call("POST", "/v1/executions/delete", selected(eid))

    late = await stack.call(
        "PATCH", f"/v1/executions/{eid}", {"status": "COMPLETED"}, headers=COMMITTED
    )

    assert late.outcome == (404, "execution-not-found")
    write = await stack.get(f"/v1/writes/{late.body['write_id']}")
    assert write.body["state"] == "refused"


async def test_a_bookmark_follows_earlier_pending_writes(
    stack: Stack, owner_connection: Any
) -> None:
    """The earlier PATCH is pending in the spool and must not undo the later call."""
    eid = await stack.create()
    async with owner_connection.transaction():
        await owner_connection.execute(
            "SELECT FROM texera_db.workflow_executions WHERE eid = $1 FOR UPDATE", eid
        )
        earlier = await stack.call("PATCH", f"/v1/executions/{eid}", {"bookmarked": False})
        later = asyncio.ensure_future(
            stack.call("POST", "/v1/executions/bookmark", selected(eid, bookmarked=True))
        )
        await asyncio.sleep(0)

    assert earlier.status == 202
    assert (await later).body == {"execution_ids": [eid], "bookmarked": True}
    assert (await stack.get(f"/v1/executions/{eid}")).body["bookmarked"] is True


async def test_an_export_plan_has_a_uri_written_just_before(stack: Stack) -> None:
    eid = await stack.create()
    uri = result_uri(WID, eid, PORT)
    await stack.call("PUT", f"/v1/executions/{eid}/ports/{PORT}", {"result_uri": uri})

    plan = await stack.call(
        "POST",
        f"/v1/workflows/{WID}/export-plan",
        {
            "computing_unit_id": WORLD.computing_unit_id,
            "operators": [{"id": "op-1", "output_type": "arrow"}],
            "file_name": "out.arrow",
        },
    )

    assert plan.body == {
        "execution_id": eid,
        "version_id": WORLD.version_id,
        "operators": [
            {
                "id": "op-1", "uri": uri, "file_name": "out.arrow", "blocked": False,
                "blocked_by": [],
            }
        ],
    }  # fmt: skip


async def test_pending_costs_are_seen_before_their_delivery(
    stack: Stack, owner_connection: Any
) -> None:
    eid = await stack.create()
    await stack.write("PATCH", f"/v1/executions/{eid}", {"status": "COMPLETED"})
    async with owner_connection.transaction():
        await owner_connection.execute(
            "SELECT FROM texera_db.workflow_executions WHERE eid = $1 FOR UPDATE", eid
        )
        put = await stack.call(
            "PUT", f"/v1/executions/{eid}/operator-costs", {"operators": {"op-1": 2.5}}
        )
        pending = await stack.get(f"/v1/workflows/{WID}/operator-costs")
    flushed = await stack.call("POST", "/v1/flush?timeout=20")
    committed = await stack.get(f"/v1/workflows/{WID}/operator-costs")

    assert put.status == 202
    assert pending.headers["X-Cache"] == "pending"
    assert flushed.status == 200
    assert committed.headers["X-Cache"] == "miss"
    costs = {"execution_id": eid, "runtime_stats_uri": None, "operators": {"op-1": 2.5}}
    assert pending.body == committed.body == costs


@pytest.fixture
async def idle(database: Database, tmp_path: Path) -> AsyncIterator[Stack]:
    """A sidecar whose delivery a test starts."""
    async with running_stack(database.central_url, tmp_path, is_delivering=False) as stack:
        yield stack


async def read_before_delivery(stack: Stack, target: str) -> LocalReply:
    """The response to a read that began before the delivery of pending writes."""
    reading = asyncio.ensure_future(stack.get(target))
    await asyncio.wait({reading}, timeout=0.3)  # a read that does not wait has returned by now
    async with stack.sidecar.tasks.supervise("delivery", stack.sidecar.delivery.run):
        return await reading


@pytest.mark.parametrize("has_older", [True, False], ids=["after another", "the first"])
async def test_costs_are_of_the_run_whose_terminal_status_is_pending(
    idle: Stack, owner_connection: Any, has_older: bool
) -> None:
    """The next run's scheduler reads them just after the run before it has completed."""
    if not has_older:
        await owner_connection.execute("DELETE FROM texera_db.workflow_executions WHERE status = 3")
    eid = await idle.create()
    await idle.call("PUT", f"/v1/executions/{eid}/operator-costs", {"operators": {"op-1": 2.5}})
    await idle.call("PATCH", f"/v1/executions/{eid}", {"status": "COMPLETED"})

    costs = await read_before_delivery(idle, f"/v1/workflows/{WID}/operator-costs")

    assert costs.body == {
        "execution_id": eid,
        "runtime_stats_uri": None,
        "operators": {"op-1": 2.5},
    }


@pytest.mark.parametrize(("status", "is_in_it"), [("RUNNING", True), ("READY", False)])
async def test_a_list_by_status_includes_pending_statuses(
    idle: Stack, status: str, is_in_it: bool
) -> None:
    eid = await idle.create()
    await idle.call("PATCH", f"/v1/executions/{eid}", {"status": "RUNNING"})

    page = await read_before_delivery(idle, f"/v1/workflows/{WID}/executions?status={status}")

    assert [row["execution_id"] == eid for row in page.body["executions"][:1]] == [True] * is_in_it


async def test_a_user_without_access_does_not_wait_for_pending_statuses(idle: Stack) -> None:
    eid = await idle.create()
    await idle.call("PATCH", f"/v1/executions/{eid}", {"status": "COMPLETED"})

    for target in ("operator-costs", "executions?status=RUNNING"):
        async with asyncio.timeout(STATUS_WAIT_S):  # nothing is ever delivered here
            response = await idle.get(f"/v1/workflows/{WID}/{target}", user=WORLD.stranger)
        assert response.outcome == (404, "workflow-not-found")


async def test_a_repeated_key_gets_the_first_response(stack: Stack) -> None:
    eid = await stack.create()
    key = {"Idempotency-Key": "once"}

    first = await stack.call("POST", "/v1/executions/delete", selected(eid), headers=key)
    again = await stack.call("POST", "/v1/executions/delete", selected(eid), headers=key)
    other = await stack.call("POST", "/v1/executions/delete", selected(501), headers=key)

    assert first.status == again.status == 200
    assert first.body == again.body
    assert other.outcome == (422, "idempotency-key-reused")


async def test_expired_runs_are_found_and_cleared(stack: Stack) -> None:
    unit = f"/v1/computing-units/{WORLD.computing_unit_id}/expired-executions"
    found = await stack.get(f"{unit}?ttl_seconds=86400")
    cleared = await stack.call(
        "POST", f"{unit}/clear", {"execution_ids": [WORLD.failed_execution_id]}
    )
    row = await stack.get(f"/v1/executions/{WORLD.failed_execution_id}")

    assert [r["execution_id"] for r in found.body["executions"]] == [WORLD.failed_execution_id]
    assert cleared.body == {"cleared": [WORLD.failed_execution_id]}
    assert (row.body["result"], row.body["log_location"]) == ("", None)
    assert row.body["status"] == "FAILED"
    assert (await stack.get(f"{unit}?ttl_seconds=86400")).body == {"executions": []}


async def test_an_execution_is_found_under_its_own_workflow_only(stack: Stack) -> None:
    eid = await stack.create()
    await stack.call("PATCH", f"/v1/executions/{eid}", {"log_location": "file:///log"})

    own = await stack.get(f"/v1/workflows/{WID}/executions/{eid}")
    other = await stack.get(f"/v1/workflows/{WORLD.public_workflow_id}/executions/{eid}")

    assert own.body["log_location"] == "file:///log"
    assert other.outcome == (404, "execution-not-found")
    latest = await stack.get(f"/v1/workflows/{WID}/versions/latest")
    assert latest.body == {"workflow_id": WID, "version_id": WORLD.version_id}


async def test_a_delete_past_its_wait_returns_its_write_id_and_later_what_it_removed(
    stack: Stack, owner_connection: Any
) -> None:
    eid = await stack.create()
    run = f"/v1/executions/{eid}"
    uri = result_uri(WID, eid, PORT)
    console = console_uri(WID, eid, "op-1")
    await stack.write("PUT", f"{run}/ports/{PORT}", {"result_uri": uri, "result_bytes": 2**40})
    await stack.write("PUT", f"{run}/operators/op-1/console", {"uri": console})
    await stack.write("PATCH", run, {"runtime_stats_uri": runtime_stats_uri(WID, eid)})
    async with owner_connection.transaction():
        await owner_connection.execute(
            "SELECT FROM texera_db.workflow_executions WHERE eid = $1 FOR UPDATE", eid
        )
        slow = await stack.call("DELETE", f"{run}/uris", headers={"Prefer": "wait=1"})
        gone = await stack.get(f"{run}/uris")
    await stack.call("POST", "/v1/flush?timeout=20")

    write = await stack.get(f"/v1/writes/{slow.body['write_id']}")

    assert slow.outcome == (504, "delivery-timeout")
    assert gone.body["results"] == []
    assert write.body["state"] == "committed"
    assert write.body["removed"] == {
        "results": [{"global_port_id": PORT, "uri": uri, "result_bytes": 2**40}],
        "console": [{"operator_id": "op-1", "uri": console, "bytes": 0}],
    }
    assert (await stack.get(f"{run}/uris")).body == {
        "results": [],
        "console": [],
        "runtime_stats": {"uri": runtime_stats_uri(WID, eid), "bytes": 0},
    }


async def test_a_forwarded_write_behind_unsettled_writes_changes_nothing(
    stack: Stack, owner_connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.forwarded.SETTLE_WAIT_S", 0.05)
    eid = await stack.create()
    async with owner_connection.transaction():
        await owner_connection.execute(
            "SELECT FROM texera_db.workflow_executions WHERE eid = $1 FOR UPDATE", eid
        )
        await stack.call("PATCH", f"/v1/executions/{eid}", {"name": "first"})
        refused = await stack.call("POST", "/v1/executions/delete", selected(eid))

    assert refused.outcome == (504, "delivery-timeout")
    assert str(eid) in refused.body["detail"]
    assert (await stack.get(f"/v1/executions/{eid}")).status == 200
