"""The examples in both OpenAPI documents are made, as the documents show them, and come true.

Nothing but the served document is read: parameters, body and answer of each operation. Moments
and write ids differ from run to run; the rest of an answer must be what the document says.
"""

import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest
from jsonschema import Draft202012Validator
from yarl import URL

from central.app import ROUTES as CENTRAL_ROUTES
from central.auth.authenticator import AuthenticatedRoute, CredentialPolicy
from dev.tokens import mint
from dev.vfs_uri import console_uri, global_port_id, result_uri, runtime_stats_uri
from dev.world import WORLD
from sidecar.server.app import ROUTES as SIDECAR_ROUTES
from tests.databases import Database
from tests.stacks import Stack, running_stack

WID, EID = WORLD.workflow_id, 1001
PORT = global_port_id("op-1", 0)
CREATES = {"/v1/executions", "/api/internal/execution-metadata/create"}
VARYING = {
    r"\d{4}-\d\d-\d\dT[\d:.]+Z": "<moment>",
    r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d": "<moment>",
    r"^[0-9a-f]+-\d+$": "<write>",
}
COSTS = '{"op-1": 2.5, "HashJoin-1": 0.75}'


@pytest.fixture
async def stack(database: Database, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running_stack(database.central_url, tmp_path) as stack:
        yield stack


def named(routes: Sequence[Any]) -> list[Any]:
    """Each route by the name that a colleague will look for."""
    return [pytest.param(route, id=f"{route.method} {route.path}") for route in routes]


def operation_of(document: dict[str, Any], route: Any) -> dict[str, Any]:
    operation: dict[str, Any] = document["paths"][route.path][route.method.lower()]
    return operation


def request_of(operation: dict[str, Any], path: str, known: dict[str, str]) -> tuple[str, bytes]:
    """Target and body of the documented call; `known` has the values no document can know."""
    query = {}
    for parameter in operation["parameters"]:
        if parameter["in"] == "header" or "example" not in parameter:
            assert not parameter["required"] or parameter["in"] == "header", parameter["name"]
            continue
        name, example = parameter["name"], known.get(parameter["name"], parameter["example"])
        text = example if isinstance(example, str) else msgspec.json.encode(example).decode()
        if parameter["in"] == "path":
            path = path.replace("{" + name + "}", quote(text, safe=""))
        else:
            query[name] = text
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    content = msgspec.json.encode(body["example"]) if "example" in body else b""
    return path + ("?" + urlencode(query) if query else ""), content


def answer_of(operation: dict[str, Any]) -> tuple[int, Any, Any]:
    """The documented success: its status, schema and example."""
    found = [
        (int(status), response["content"]["application/json"])
        for status, response in operation["responses"].items()
        if "example" in response.get("content", {}).get("application/json", {})
    ]
    assert len(found) == 1, "an operation has one example: add it to examples.py of its service"
    (status, content) = found[0]
    return status, content["schema"], content["example"]


def settled(value: Any) -> Any:
    """The value with what differs from run to run made alike."""
    match value:
        case dict():
            return {key: settled(member) for key, member in value.items()}
        case list():
            return [settled(member) for member in value]
        case str():
            for pattern, name in VARYING.items():
                value = re.sub(pattern, name, value)
    return value


def check(document: dict[str, Any], operation: dict[str, Any], status: int, body: Any) -> None:
    expected_status, schema, example = answer_of(operation)
    assert status == expected_status, body
    Draft202012Validator({**schema, "components": document["components"]}).validate(body)
    assert settled(body) == settled(example)


async def prepare(stack: Stack, owner_connection: Any) -> dict[str, str]:
    """The run that the examples speak of; values of it that no document can know."""
    eid = await stack.create(name="Monday's run", environment_version='{"engine_version":"1.2"}')
    assert eid == EID
    run = f"/v1/executions/{eid}"
    result = {"result_uri": result_uri(WID, eid, PORT), "result_bytes": 1024}
    console = {"uri": console_uri(WID, eid, "op-1"), "bytes": 256}
    await stack.write("PUT", f"{run}/ports/{PORT}", result)
    await stack.write("PUT", f"{run}/operators/op-1/console", console)
    stats = {"runtime_stats_uri": runtime_stats_uri(WID, eid), "runtime_stats_bytes": 4096}
    last = await stack.write("PATCH", run, stats | {"status": "RUNNING"})
    await owner_connection.execute(
        "INSERT INTO cu_metadata.operator_costs VALUES ($1, $2)",
        WORLD.completed_execution_id,
        COSTS,
    )
    return {"write_id": last.body["write_id"]}


@pytest.mark.parametrize("route", named(SIDECAR_ROUTES))
async def test_the_sidecars_example_comes_true(
    stack: Stack, owner_connection: Any, route: Any
) -> None:
    document = (await stack.get("/openapi.json")).body
    operation = operation_of(document, route)
    known = {} if route.path in CREATES else await prepare(stack, owner_connection)
    target, body = request_of(operation, route.path, known)
    url = stack.client.make_url("").join(URL(target, encoded=True))
    headers = {"Authorization": f"Bearer {stack.token(WORLD.owner)}"}

    async with stack.client.session.request(
        route.method,
        url,
        data=body or None,
        headers=headers | ({"Content-Type": "application/json"} if body else {}),
    ) as answer:
        check(document, operation, answer.status, await answer.json(content_type=None))


@pytest.mark.parametrize("route", named(CENTRAL_ROUTES))
async def test_centrals_example_comes_true(
    stack: Stack, owner_connection: Any, route: AuthenticatedRoute
) -> None:
    document = (await stack.central.get("/openapi.json")).body
    operation = operation_of(document, route)
    if route.path not in CREATES:
        await prepare(stack, owner_connection)
        # The examples are signed by the run's own sidecar: here the test's key is.
        for table in ("bindings", "leases"):
            await owner_connection.execute(
                f"UPDATE cu_metadata.{table} SET source_id = $1",  # noqa: S608
                stack.central.source_id,
            )
    target, body = request_of(operation, route.path, {})
    is_users = route.needs is not CredentialPolicy.SOURCE
    headers = stack.central.key.headers(
        route.method,
        target,
        body,
        token=mint(WORLD.owner.user_id) if is_users else None,
        idempotency_key="an-example" if route.needs is CredentialPolicy.USER_AND_SOURCE else None,
    )
    client = stack.central.client
    url = client.make_url("").join(URL(target, encoded=True))

    async with client.session.request(
        route.method, url, data=body or None, headers=headers
    ) as answer:
        check(document, operation, answer.status, await answer.json(content_type=None))
