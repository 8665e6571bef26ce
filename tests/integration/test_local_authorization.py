"""Deny by default at the sidecar too: every local route, by every user, in every scene.

Through a real sidecar, so that its grants, cached values and pending writes are part of the
decision: the least privileged users call each route before and after those who may.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dev.tokens import WEEK_S, base64url, mint, part
from dev.world import WORLD, User
from sidecar.server.app import ROUTES
from tests.databases import Database
from tests.integration.relation_fixtures import (
    DONE,
    PRIVATE,
    SCENES,
    Outcome,
    Rule,
    Scene,
    act_on_unit,
    anyone,
    create,
    export,
    filled,
    in_order,
    read_run,
    read_unit,
    read_workflow,
    select,
    target,
    write,
)
from tests.stacks import Stack, running_stack

RUN = "/v1/executions/{eid}"
CONSOLE = "/operators/op-1/console"
WORKFLOW = "/v1/workflows/{wid}"
UNIT = "/v1/computing-units/{cuid}"
OLD = "/api/internal/execution-metadata"
HERE = {"workflow_id": "{wid}", "computing_unit_id": "{cuid}", "environment_version": "test"}
OLD_HERE = {"workflowId": "{wid}", "computingUnitId": "{cuid}", "environmentVersion": "test"}
SELECTED = {"workflow_id": "{wid}", "execution_ids": ["{eid}"]}
EXPORTED = {
    "computing_unit_id": "{cuid}",
    "operators": [{"id": "op-1", "output_type": "csv"}],
}


def own_write(scene: Scene, user: User) -> Outcome:
    """Only its own user sees a write; ADMIN does not."""
    if (refused := anyone(scene, user)) != DONE:
        return refused
    return DONE if user == scene.runner else (404, "write-not-found")


CALLS: dict[tuple[str, str], tuple[str, Any, Rule, int]] = {
    ("POST", "/v1/executions"): ("/v1/executions", HERE, create, 201),
    ("GET", "/v1/executions/{execution_id}"): (RUN, None, read_run, 200),
    ("PATCH", "/v1/executions/{execution_id}"): (RUN, {"status": "RUNNING"}, write, 202),
    ("GET", "/v1/workflows/{workflow_id}/executions/latest"): (
        WORKFLOW + "/executions/latest", None, read_workflow, 200,
    ),
    ("GET", "/v1/workflows/{workflow_id}/executions"): (
        WORKFLOW + "/executions", None, read_workflow, 200,
    ),
    ("PUT", "/v1/executions/{execution_id}/ports/{global_port_id}"): (
        RUN + "/ports/{port}", {"result_uri": "{result_uri}"}, write, 202,
    ),
    ("PATCH", "/v1/executions/{execution_id}/ports/{global_port_id}"): (
        RUN + "/ports/{port}", {"result_bytes": 5}, write, 202,
    ),
    ("PUT", "/v1/executions/{execution_id}/operators/{operator_id}/console"): (
        RUN + CONSOLE, {"uri": "{console_uri}"}, write, 202,
    ),
    ("PATCH", "/v1/executions/{execution_id}/operators/{operator_id}/console"): (
        RUN + CONSOLE, {"bytes": 5}, write, 202,
    ),
    ("GET", "/v1/executions/{execution_id}/operators/{operator_id}/console"): (
        RUN + CONSOLE, None, read_run, 200,
    ),
    ("GET", "/v1/executions/{execution_id}/result-uri"): (
        RUN + "/result-uri?operator_id=op-1", None, read_run, 200,
    ),
    ("GET", "/v1/executions/{execution_id}/uris"): (RUN + "/uris", None, read_run, 200),
    ("DELETE", "/v1/executions/{execution_id}/uris"): (RUN + "/uris", None, write, 200),
    ("PUT", "/v1/executions/{execution_id}/operator-costs"): (
        RUN + "/operator-costs", {"operators": {"op-1": 1.5}}, write, 202,
    ),
    ("GET", "/v1/workflows/{workflow_id}/operator-costs"): (
        WORKFLOW + "/operator-costs", None, read_workflow, 200,
    ),
    ("GET", "/v1/workflows/{workflow_id}/versions/latest"): (
        WORKFLOW + "/versions/latest", None, read_workflow, 200,
    ),
    ("GET", "/v1/workflows/{workflow_id}/executions/{execution_id}"): (
        WORKFLOW + "/executions/{eid}", None, read_run, 200,
    ),
    ("POST", "/v1/workflows/{workflow_id}/export-plan"): (
        WORKFLOW + "/export-plan", EXPORTED, export, 200,
    ),
    ("POST", "/v1/executions/delete"): ("/v1/executions/delete", SELECTED, select, 200),
    ("POST", "/v1/executions/bookmark"): (
        "/v1/executions/bookmark", {**SELECTED, "bookmarked": True}, select, 200,
    ),
    ("POST", "/v1/computing-units/{computing_unit_id}/boots"): (
        UNIT + "/boots", {"boot_id": "boot-1"}, act_on_unit, 200,
    ),
    ("GET", "/v1/computing-units/{computing_unit_id}/expired-executions"): (
        UNIT + "/expired-executions?ttl_seconds=60", None, read_unit, 200,
    ),
    ("POST", "/v1/computing-units/{computing_unit_id}/expired-executions/clear"): (
        UNIT + "/expired-executions/clear", {"execution_ids": ["{ended}"]}, act_on_unit, 200,
    ),
    ("GET", "/v1/writes/{write_id}"): ("/v1/writes/{write_id}", None, own_write, 200),
    ("GET", "/v1/writes"): ("/v1/writes", None, anyone, 200),
    ("POST", "/v1/flush"): ("/v1/flush", None, anyone, 200),
    ("POST", OLD + "/create"): (OLD + "/create", OLD_HERE, create, 200),
    ("GET", OLD + "/latest"): (OLD + "/latest?wid={wid}&cuid={cuid}", None, read_workflow, 200),
    ("PUT", OLD + "/{eid}/runtime-stats-uri"): (
        OLD + "/{eid}/runtime-stats-uri", {"workflowId": "{wid}", "uri": "{stats_uri}"}, write, 202,
    ),
    ("PUT", OLD + "/{eid}/status"): (OLD + "/{eid}/status", {"status": "RUNNING"}, write, 202),
    ("POST", OLD + "/{eid}/operator-console"): (
        OLD + "/{eid}/operator-console", {"operatorId": "op-1", "uri": "{console_uri}"}, write, 202,
    ),
    ("POST", OLD + "/{eid}/port-result"): (
        OLD + "/{eid}/port-result", {"globalPortId": "{port}", "uri": "{result_uri}"}, write, 202,
    ),
    ("GET", OLD + "/{eid}/port-result"): (
        OLD + "/{eid}/port-result?opId=op-1", None, read_run, 200,
    ),
    ("GET", OLD + "/{eid}/port-results"): (OLD + "/{eid}/port-results", None, read_run, 200),
}  # fmt: skip

OF_A_RUN = {
    (method, route)
    for method, route in CALLS
    if "/{execution_id}" in route or "/{eid}/" in route or route == "/v1/writes/{write_id}"
}
"""The calls that name one execution, or a write to it: a run token does for them."""

BAD_TOKENS = {
    "nonsense": ("nonsense", "token-invalid"),
    "a run token made up": (f"run_1_{'x' * 43}", "token-invalid"),
    "a malformed run token": ("run_1", "token-invalid"),
    "expired": (mint(WORLD.owner.user_id, ttl_s=-31), "token-expired"),
    "expired, ADMIN": (mint(WORLD.admin.user_id, "ADMIN", ttl_s=-WEEK_S), "token-expired"),
    "another key": (mint(WORLD.owner.user_id, secret="another-deployments"), "token-invalid"),
    "alg none": (
        f"{part({'alg': 'none'})}.{mint(WORLD.owner.user_id).split('.')[1]}.",
        "token-invalid",
    ),
    "another signature": (
        mint(WORLD.owner.user_id).rpartition(".")[0] + "." + base64url(bytes(32)),
        "token-invalid",
    ),
}


@pytest.fixture
async def stack(database: Database, tmp_path: Path) -> AsyncIterator[Stack]:
    keys = {"CENTRAL_RUN_TOKEN_KEYS": "test:a-secret-of-run-tokens-and-nothing-else"}
    async with running_stack(database.central_url, tmp_path, keys) as stack:
        yield stack


async def start_run(stack: Stack, scene: Scene) -> tuple[int, str]:
    """The scene's run, with a result and console messages, and the id of a write to it."""
    execution_id, write_id, _ = await start_run_with_token(stack, scene)
    return execution_id, write_id


async def start_run_with_token(stack: Stack, scene: Scene) -> tuple[int, str, dict[str, str]]:
    """As `start_run`, and the header of the run's token."""
    new = HERE | {"environment_version": "test", "run_token": True}
    reply = await stack.call("POST", "/v1/executions", filled(new, scene, 0), user=scene.runner)
    assert reply.status == 201, reply.body
    execution_id = reply.body["execution_id"]
    token = {"Authorization": f"Bearer {reply.body['run_token']}"}
    write_id = ""
    for name in ("ports/{global_port_id}", "operators/{operator_id}/console"):
        path, body, _, _ = CALLS["PUT", f"/v1/executions/{{execution_id}}/{name}"]
        where, what = target(path, scene, execution_id), filled(body, scene, execution_id)
        written = await stack.write("PUT", where, what, user=scene.runner)
        write_id = written.body["write_id"]
    return execution_id, write_id, token


def test_every_route_has_an_authorization_case() -> None:
    assert {(route.method, route.path) for route in ROUTES} == set(CALLS)


@pytest.mark.parametrize("scene", SCENES, ids=str)
async def test_every_user_gets_what_their_relation_allows(stack: Stack, scene: Scene) -> None:
    outcomes, expected = {}, {}
    for (method, route), (path, body, rule, success) in CALLS.items():
        execution_id, write_id = await start_run(stack, scene)
        where = target(path.replace("{write_id}", write_id), scene, execution_id)
        what = filled(body, scene, execution_id)
        weakest_first = in_order(scene)
        # Again after those who may: what they made the sidecar cache grants nobody else access.
        for turn, user in enumerate([*weakest_first, *weakest_first[:-1]]):
            outcome = rule(scene, user)
            if turn >= len(weakest_first) and (outcome == DONE or route.endswith("/delete")):
                continue
            reply = await stack.call(method, where, what, user=user)
            call = (turn, method, route, user.name)
            outcomes[call] = reply.outcome
            expected[call] = (success, "") if outcome == DONE else outcome

    assert outcomes == expected


async def test_a_bad_token_gets_401_whatever_is_cached(stack: Stack) -> None:
    execution_id, write_id = await start_run(stack, PRIVATE)
    outcomes, expected = {}, {}
    for (method, route), (path, body, _, _) in CALLS.items():
        where = target(path.replace("{write_id}", write_id), PRIVATE, execution_id)
        what = filled(body, PRIVATE, execution_id)
        for name, (token, slug) in BAD_TOKENS.items():
            bad = {"Authorization": f"Bearer {token}"}
            reply = await stack.call(method, where, what, headers=bad)
            outcomes[method, route, name] = reply.outcome
            expected[method, route, name] = (401, slug)
            assert reply.headers["WWW-Authenticate"].startswith("Bearer"), (route, name)

    assert outcomes == expected


@pytest.mark.parametrize("scene", SCENES, ids=str)
async def test_a_run_token_is_good_for_the_calls_about_its_run(stack: Stack, scene: Scene) -> None:
    outcomes, expected = {}, {}
    other_id, other_write_id, _ = await start_run_with_token(stack, scene)
    refused = (403, "run-token-scope")
    for (method, route), (path, body, _, success) in CALLS.items():
        execution_id, write_id, run_token = await start_run_with_token(stack, scene)
        is_of_run = (method, route) in OF_A_RUN
        of_other = (404, "write-not-found") if route == "/v1/writes/{write_id}" else refused
        for which, run_id, written, outcome in (
            ("other", other_id, other_write_id, of_other),
            ("own", execution_id, write_id, (success, "") if is_of_run else refused),
        ):
            where = target(path.replace("{write_id}", written), scene, run_id)
            what = filled(body, scene, run_id)
            reply = await stack.call(method, where, what, headers=run_token)
            outcomes[which, method, route] = reply.outcome
            expected[which, method, route] = outcome

    assert outcomes == expected


async def test_a_call_without_a_token_is_refused_by_the_guard(stack: Stack) -> None:
    execution_id, write_id = await start_run(stack, PRIVATE)
    for (method, _), (path, body, _, _) in CALLS.items():
        where = target(path.replace("{write_id}", write_id), PRIVATE, execution_id)
        async with stack.client.request(
            method, where, json=filled(body, PRIVATE, execution_id)
        ) as response:
            problem = await response.json(content_type=None)
        assert (response.status, problem["type"]) == (401, "token-missing"), (method, where)


async def test_a_hidden_execution_is_indistinguishable_from_an_absent_one(stack: Stack) -> None:
    """Through cache, single-flight, pending writes and long polls: the same problem."""
    hidden, write_id = await start_run(stack, PRIVATE)
    await stack.call("PATCH", f"/v1/executions/{hidden}", {"name": "pending"})
    calls = [
        ("GET", RUN, None),
        ("GET", RUN + "/uris", None),
        ("GET", RUN + "/result-uri?operator_id=op-1&wait=0.1", None),
        ("GET", RUN + CONSOLE, None),
        ("PATCH", RUN, {"status": "KILLED"}),
        ("PUT", RUN + CONSOLE, {"uri": "vfs:///wid/1/eid/1/opid/op-1/consolemessages"}),
        ("DELETE", RUN + "/uris", None),
        ("GET", OLD + "/{eid}/port-results", None),
        ("PUT", OLD + "/{eid}/status", {"status": "KILLED"}),
    ]
    for method, path, body in calls:
        replies = []
        for execution_id in (hidden, 999_999):
            where = target(path, PRIVATE, execution_id)
            reply = await stack.call(method, where, body, user=WORLD.stranger)
            reply.body.pop("request_id")
            reply.body["detail"] = reply.body["detail"].replace(str(execution_id), "N")
            shown = {name.lower(): value for name, value in reply.headers.items()}
            for name in ("date", "x-request-id", "content-length"):  # a number is in the detail
                del shown[name]
            replies.append((reply.status, reply.body, shown))
        assert replies[0] == replies[1], (method, path)
        assert replies[0][0] == 404

    own = await stack.get(f"/v1/writes/{write_id}", WORLD.stranger)
    absent = await stack.get("/v1/writes/" + write_id.rpartition("-")[0] + "-99999", WORLD.stranger)
    assert own.outcome == absent.outcome == (404, "write-not-found")
