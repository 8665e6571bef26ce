"""The CU's Python client, blocking and for asyncio, against a real sidecar and central."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from aiohttp import web

from cu_metadata_client import Client, Forbidden, Problem, calls
from cu_metadata_client.aio import AsyncClient
from cu_metadata_client.protocol import Call
from dev.vfs_uri import console_uri, global_port_id, result_uri, runtime_stats_uri
from dev.world import WORLD
from dev.world_rows import JOIN_OPERATOR
from tests.databases import ROOT, Database
from tests.stacks import Stack, running_stack

T = TypeVar("T")
WID, CUID = WORLD.workflow_id, WORLD.computing_unit_id
PORT = global_port_id("op-1", 0)


class Send(Protocol):
    def __call__(self, call: Call[T], *, token: str | None = None) -> Awaitable[T]: ...


@pytest.fixture
async def stack(database: Database, tmp_path: Path) -> AsyncIterator[Stack]:
    keys = {"CENTRAL_RUN_TOKEN_KEYS": "test:a-secret-of-run-tokens-and-nothing-else"}
    async with running_stack(database.central_url, tmp_path / "spool", keys) as stack:
        yield stack


@pytest.fixture(params=["blocking", "asyncio", "blocking, unix socket", "asyncio, unix socket"])
async def send(request: pytest.FixtureRequest, stack: Stack, tmp_path: Path) -> AsyncIterator[Send]:
    """Either client, over TCP or a unix socket."""
    socket = None
    if "unix" in request.param:
        socket = tmp_path / "api"
        runner = stack.client.server.runner
        assert runner is not None
        await web.UnixSite(runner, socket).start()
    address = stack.url if socket is None else f"unix:{socket}"
    token = stack.token(WORLD.owner)
    if request.param.startswith("asyncio"):
        async with AsyncClient(address, token=token) as client:
            yield client.send
    else:
        with Client(address, token=token) as blocking:

            async def in_thread(call: Call[T], *, token: str | None = None) -> T:
                return await asyncio.to_thread(blocking.send, call, token=token)

            yield in_thread


async def test_whole_run(send: Send, owner_connection: Any) -> None:
    run = await send(calls.create_execution(WID, CUID, "1.2", name="Straße"))
    eid = run.execution_id
    assert (run.user_id, run.status, run.started_at.tzinfo is not None) == (1, "READY", True)
    assert await send(calls.result_uri(eid, "op-1")) is None
    assert await send(calls.console(eid, "op-1")) is None

    stats = runtime_stats_uri(WID, eid)
    result, console = result_uri(WID, eid, PORT), console_uri(WID, eid, "op-1")
    durable = await send(calls.update_execution(eid, status="RUNNING", runtime_stats_uri=stats))
    await send(calls.put_port_result(eid, PORT, result))
    await send(calls.set_port_result_size(eid, PORT, 2**40))
    await send(calls.put_console(eid, "op-1", console, size_bytes=3))
    await send(calls.set_console_size(eid, "op-1", 4))
    await send(calls.put_operator_costs(eid, {"op-1": 0.5}))
    await send(calls.update_execution(eid, log_location="file:///l", bookmarked=True))
    found = await send(calls.result_uri(eid, "op-1", wait_s=5))
    ended = await send(calls.update_execution(eid, status=3, wait_s=20))
    await send(calls.flush())

    assert durable.state == "durable"
    assert found is not None
    assert (found.uri, found.global_port_id) == (result, PORT)
    assert ended.state == "committed"
    assert (await send(calls.write(durable.write_id))).state == "committed"
    assert durable.write_id in {w.write_id for w in await send(calls.writes("committed"))}
    row = await send(calls.execution(eid, workflow_id=WID))
    assert (row.name, row.status, row.bookmarked, row.log_location) == (
        "Straße", "COMPLETED", True, "file:///l",
    )  # fmt: skip
    uris = await send(calls.uris(eid))
    assert uris.results[PORT].bytes == 2**40
    assert uris.console["op-1"].bytes == 4
    assert uris.runtime_stats is not None
    costs = await send(calls.operator_costs(WID))
    assert costs is not None
    assert (costs.execution_id, costs.operators) == (eid, {"op-1": 0.5})
    await send(calls.update_execution(eid, log_location=None, wait_s=20))
    assert (await send(calls.execution(eid))).log_location is None
    assert (await send(calls.execution(eid))).bookmarked
    removed = await send(calls.delete_uris(eid))
    assert removed.results == {PORT: (result, 2**40)}
    assert removed.console == {"op-1": (console, 4)}
    assert await send(calls.delete_executions(WID, [eid])) == {eid: [stats]}
    assert not await owner_connection.fetchval(
        "SELECT count(*) FROM texera_db.workflow_executions WHERE eid = $1", eid
    )


async def test_a_run_goes_by_its_run_token(send: Send) -> None:
    without = await send(calls.create_execution(WID, CUID, "1.2"))
    run = await send(calls.create_execution(WID, CUID, "1.2", run_token=True))
    eid, token = run.execution_id, run.run_token
    assert token is not None
    assert token not in repr(run)

    await send(calls.update_execution(eid, status="RUNNING", wait_s=20), token=token)
    row = await send(calls.execution(eid), token=token)
    with pytest.raises(Forbidden) as raised:
        await send(calls.execution(without.execution_id), token=token)

    assert (row.status, without.run_token) == ("RUNNING", None)
    assert raised.value.type == "run-token-scope"
    assert (await send(calls.execution(without.execution_id))).status == "READY"


async def test_reads_of_a_workflow_and_a_unit(send: Send) -> None:
    latest = await send(calls.latest_execution(WID, CUID))
    page = await send(calls.executions(WID, statuses=["COMPLETED", "FAILED"], limit=1))
    rest = await send(calls.executions(WID, before=page.next_before))
    plan = await send(calls.export_plan(WORLD.public_workflow_id, CUID, {JOIN_OPERATOR: "parquet"}))
    expired = await send(calls.expired_executions(CUID, 86_400))

    assert latest is not None
    assert latest.execution_id == page.executions[0].execution_id == WORLD.completed_execution_id
    assert [row.execution_id for row in rest.executions] == [WORLD.failed_execution_id]
    assert (plan.operators[0].blocked, plan.operators[0].uri) == (True, None)
    assert plan.operators[0].file_name.endswith(".zip")
    assert [row.execution_id for row in expired] == [WORLD.failed_execution_id]
    assert await send(calls.clear_expired(CUID, [WORLD.failed_execution_id])) == [501]
    assert await send(calls.bookmark_executions(WID, [501], bookmarked=True)) == [501]
    assert await send(calls.latest_version(WID)) == WORLD.version_id
    assert await send(calls.latest_execution(WID, WORLD.other_computing_unit_id)) is None


async def test_problem_names_the_invalid_fields(send: Send) -> None:
    with pytest.raises(Problem) as wrong:
        await send(calls.create_execution(WID, CUID, "1.2", name="x" * 129))
    with pytest.raises(Problem) as absent:
        await send(calls.execution(999))

    assert (wrong.value.type, wrong.value.status) == ("invalid-request", 400)
    assert list(wrong.value.fields) == ["name"]
    assert absent.value.type == "execution-not-found"


async def test_create_sent_twice_is_one_run(send: Send) -> None:
    call = calls.create_execution(WID, CUID, "1.2")

    assert await send(call) == await send(call)


async def test_new_boot_ends_the_runs_of_the_earlier_one(send: Send) -> None:
    await send(calls.register_boot(CUID, "first"))
    run = await send(calls.create_execution(WID, CUID, "1.2"))

    closed = await send(calls.register_boot(CUID, "second"))

    assert closed == [run.execution_id]
    assert (await send(calls.execution(run.execution_id))).status == "FAILED"
    with pytest.raises(Problem) as superseded:
        await send(calls.register_boot(CUID, "first"))
    assert superseded.value.type == "boot-superseded"


async def test_refused_write_raises_its_problem_if_waited_for(send: Send) -> None:
    run = await send(calls.create_execution(WID, CUID, "1.2"))
    await send(calls.update_execution(run.execution_id, status="FAILED", wait_s=20))

    with pytest.raises(Problem) as refused:
        await send(calls.update_execution(run.execution_id, status="COMPLETED", wait_s=20))

    assert refused.value.type == "status-conflict"
    assert refused.value.write_id is not None
    stored = await send(calls.write(refused.value.write_id))
    assert (stored.state, stored.problem and stored.problem["type"]) == (
        "refused",
        "status-conflict",
    )


def test_blocking_client_needs_the_standard_library_alone() -> None:
    folder = str(ROOT / "clients" / "python")
    program = f"import sys; sys.path.insert(0, {folder!r}); import cu_metadata_client"

    isolated = subprocess.run([sys.executable, "-I", "-S", "-c", program], check=False)

    assert isolated.returncode == 0


async def test_python_lines_of_the_migration_page_drive_a_run(stack: Stack) -> None:
    page = (ROOT / "docs" / "migrating-from-sqlserver.md").read_text()
    [(_, code)] = re.findall(r"```(python)\n(.*?)```", page, re.DOTALL)
    here: dict[str, Any] = {
        "token": stack.token(WORLD.owner),
        "workflow_id": WID,
        "computing_unit_id": CUID,
    }

    await asyncio.to_thread(exec, code.replace("http://127.0.0.1:7070", stack.url), here)

    row = (await stack.get(f"/v1/executions/{here['run'].execution_id}")).body
    assert row["status"] == "COMPLETED"
    assert here["found"] is None


async def test_example_of_the_readme_drives_a_run(stack: Stack) -> None:
    readme = (ROOT / "clients" / "python" / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict[str, Any] = {
        "token": stack.token(WORLD.owner),
        "workflow_id": WID,
        "computing_unit_id": CUID,
    }

    await asyncio.to_thread(exec, code.replace("http://127.0.0.1:7070", stack.url), names)

    row = (await stack.get(f"/v1/executions/{names['run'].execution_id}")).body
    assert row["status"] == "COMPLETED"
    assert names["result"] is None
