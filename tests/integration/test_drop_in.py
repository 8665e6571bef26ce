"""The drop-in routes, called by a real Java client and directly.

The Java client beside this file is compiled with the machine's JDK. Without one its test is
skipped; the direct calls are always tested.
"""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dev.tokens import mint
from dev.vfs_uri import console_uri, global_port_id, result_uri, runtime_stats_uri
from dev.world import WORLD
from tests.databases import Database
from tests.stacks import Stack, running_stack

BASE = "/api/internal/execution-metadata"
SOURCE = Path(__file__).parent / "java" / "DropInRun.java"
WID, CUID = WORLD.workflow_id, WORLD.computing_unit_id
PORT = global_port_id("op-1", 0)
CREATE = {
    "workflowId": WID,
    "uid": None,
    "executionName": "",
    "environmentVersion": "{}",
    "computingUnitId": CUID,
}


@pytest.fixture
async def stack(database: Database, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(database.central_url, tmp_path / "spool") as stack:
        yield stack


@pytest.fixture(scope="session")
def java_client(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the compiled client."""
    java, javac = shutil.which("java"), shutil.which("javac")
    if java is None or javac is None:
        pytest.skip("not run: this machine has no JDK (javac is not on PATH)")
    classes = tmp_path_factory.mktemp("classes")
    subprocess.run([javac, "-Xlint:all,-deprecation", "-Werror", "-d", classes, SOURCE], check=True)
    return [java, "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", str(classes), "DropInRun"]


async def create(stack: Stack) -> int:
    response = await stack.call("POST", f"{BASE}/create", CREATE)
    assert response.status == 200, response.body
    return int(response.body["eid"])


async def flush(stack: Stack) -> None:
    assert (await stack.call("POST", "/v1/flush?timeout=30")).status == 200


async def test_a_java_client_completes_a_run(
    stack: Stack, java_client: list[str], owner_connection: Any
) -> None:
    owner = WORLD.owner.user_id
    arguments = [stack.url + BASE, mint(owner), str(WID), str(CUID), str(owner)]

    process = await asyncio.create_subprocess_exec(
        *java_client, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()

    assert process.returncode == 0, output.decode()
    eid = int(output)
    await flush(stack)
    row = await owner_connection.fetchrow(
        "SELECT * FROM texera_db.workflow_executions WHERE eid = $1", eid
    )
    assert (row["status"], row["name"], row["uid"]) == (3, "Straße", owner)
    assert row["runtime_stats_uri"] == runtime_stats_uri(WID, eid)
    ports = await owner_connection.fetch(
        "SELECT global_port_id, result_uri FROM texera_db.operator_port_executions"
        " WHERE workflow_execution_id = $1",
        eid,
    )
    consoles = await owner_connection.fetch(
        "SELECT operator_id, console_messages_uri FROM texera_db.operator_executions"
        " WHERE workflow_execution_id = $1",
        eid,
    )
    assert [tuple(port) for port in ports] == [(PORT, result_uri(WID, eid, PORT))]
    assert [tuple(c) for c in consoles] == [("op-1", console_uri(WID, eid, "op-1"))]
    first = await owner_connection.fetchrow(
        "SELECT name, status FROM texera_db.workflow_executions WHERE eid = $1", eid - 1
    )
    assert tuple(first) == ("Untitled Execution", 0)


async def test_another_users_uid_creates_nothing(stack: Stack, owner_connection: Any) -> None:
    count = "SELECT count(*) FROM texera_db.workflow_executions"
    before = await owner_connection.fetchval(count)

    response = await stack.call(
        "POST", f"{BASE}/create", CREATE | {"uid": WORLD.writer.user_id}, user=WORLD.owner
    )

    assert response.outcome == (403, "uid-mismatch")
    assert await owner_connection.fetchval(count) == before


async def test_a_stored_result_is_found_by_port_and_in_the_list(stack: Stack) -> None:
    eid = await create(stack)
    uri = result_uri(WID, eid, PORT)

    stored = await stack.call(
        "POST", f"{BASE}/{eid}/port-result", {"globalPortId": PORT, "uri": uri, "more": 1}
    )

    assert stored.status == 202
    assert set(stored.body) == {"writeId", "state"}
    found = await stack.get(f"{BASE}/{eid}/port-result?opId=op-1&portId=0&internal=false&x=y")
    every = await stack.get(f"{BASE}/{eid}/port-results")
    assert (found.status, found.body) == (200, {"uri": uri})
    assert (every.status, every.body) == (200, {"uris": [uri]})


@pytest.mark.parametrize(
    "target",
    [
        "/1001/port-result?opId=op-1&portId=0&internal=false",
        "/1001/port-result?opId=op-1&portId=1&internal=true",
        "/999999/port-results",
        "/999999/port-result?opId=op-1",
        f"/latest?wid={WID}&cuid=999",
        "/latest?wid=999&cuid=201",
    ],
)
async def test_absent_values_are_404(stack: Stack, target: str) -> None:
    await create(stack)

    assert (await stack.get(BASE + target)).status == 404


@pytest.mark.parametrize(
    ("status", "stored"),
    [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), ("Completed", 3), (-1, 0), ("PAUSING", 0)],
)
async def test_a_status_is_accepted_by_code_or_name(
    stack: Stack, owner_connection: Any, status: int | str, stored: int
) -> None:
    eid = await create(stack)

    response = await stack.call("PUT", f"{BASE}/{eid}/status", {"status": status})
    await flush(stack)

    assert response.status == 202
    assert stored == await owner_connection.fetchval(
        "SELECT status FROM texera_db.workflow_executions WHERE eid = $1", eid
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("POST", "/create", CREATE | {"workflowId": "x"}, "workflowId"),
        ("POST", "/create", CREATE | {"executionName": "x" * 129}, "executionName"),
        ("POST", "/create", CREATE | {"environmentVersion": "x" * 129}, "environmentVersion"),
        ("POST", "/create", CREATE | {"computingUnitId": 2**31}, "computingUnitId"),
        ("POST", "/create", {k: v for k, v in CREATE.items() if k != "workflowId"}, "workflowId"),
        ("PUT", "/1001/status", {"status": 6}, "status"),
        ("PUT", "/1001/status", {}, "status"),
        ("PUT", "/1001/runtime-stats-uri", {"uri": "vfs:///x"}, "workflowId"),
        ("POST", "/1001/operator-console", {"operatorId": "a,b", "uri": "vfs:///x"}, "operatorId"),
        ("POST", "/1001/port-result", {"globalPortId": "p", "uri": "vfs:///x"}, "globalPortId"),
        ("PUT", "/x/status", {"status": 3}, "eid"),
        ("GET", f"/latest?wid={WID}", None, "cuid"),
        ("GET", "/1001/port-result?portId=0", None, "opId"),
        ("GET", "/1001/port-result?opId=a&portId=-1", None, "portId"),
    ],
)
async def test_bad_input_is_one_problem_with_the_clients_field_name(
    stack: Stack, method: str, path: str, body: Any, field: str
) -> None:
    await create(stack)

    response = await stack.call(method, BASE + path, body)

    assert response.outcome == (400, "invalid-request")
    assert [error["field"] for error in response.body["errors"]] == [field]


async def test_a_repeated_insert_is_one_row_and_a_foreign_uri_is_refused(
    stack: Stack, owner_connection: Any
) -> None:
    eid = await create(stack)
    console = {"operatorId": "op-1", "uri": console_uri(WID, eid, "op-1")}
    foreign = {"operatorId": "op-2", "uri": console_uri(WID, eid + 1, "op-2")}

    twice = [await stack.call("POST", f"{BASE}/{eid}/operator-console", console) for _ in range(2)]
    refused = await stack.call("POST", f"{BASE}/{eid}/operator-console", foreign)
    await flush(stack)

    assert [response.status for response in twice] == [202, 202]
    assert refused.outcome == (422, "uri-mismatch")
    assert (
        await owner_connection.fetchval(
            "SELECT count(*) FROM texera_db.operator_executions WHERE workflow_execution_id = $1",
            eid,
        )
        == 1
    )
