"""Default is no: each route by each relation of the caller to what the call names.

Generated from the service's own table of routes: a route that `CALLS` does not know fails, and
each is called by everybody there is, with every kind of bad token, and unsigned.
"""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import pytest

from central.app import ROUTES
from central.auth.callers import AuthenticatedRoute, Needs
from dev.tokens import WEEK_S, base64url, mint, part
from dev.vfs_uri import console_uri, global_port_id, result_uri
from dev.world import WORLD, User
from tests.integration.central.authority import Sidecar

PORT = global_port_id("op-1", 0)
CONSOLE = "/operators/op-1/console"
RUN = "/v1/executions/{eid}"
WORKFLOW = f"/v1/workflows/{WORLD.workflow_id}"
HERE = {
    "workflow_id": WORLD.workflow_id,
    "computing_unit_id": WORLD.computing_unit_id,
    "environment_version": "test",
}

REFUSED_ROLES = {
    WORLD.restricted: (403, "role-not-allowed"),
    WORLD.inactive: (403, "role-not-allowed"),
}
READ_RUN = {
    WORLD.owner: (200, ""),
    WORLD.writer: (200, ""),
    WORLD.reader: (200, ""),
    WORLD.colleague: (200, ""),
    WORLD.admin: (200, ""),
    WORLD.stranger: (404, "execution-not-found"),
    **REFUSED_ROLES,
}
READ_WORKFLOW = READ_RUN | {WORLD.stranger: (404, "workflow-not-found")}
WRITE = READ_RUN | dict.fromkeys(
    (WORLD.writer, WORLD.reader, WORLD.colleague, WORLD.admin), (403, "not-the-executions-user")
)
CREATE = {
    WORLD.owner: (201, ""),
    WORLD.writer: (201, ""),
    WORLD.reader: (404, "computing-unit-not-found"),
    WORLD.colleague: (403, "computing-unit-forbidden"),
    WORLD.admin: (403, "workflow-forbidden"),
    WORLD.stranger: (404, "workflow-not-found"),
    **REFUSED_ROLES,
}
ANYONE = READ_RUN | {WORLD.stranger: (200, "")}
SELECT = WRITE | {WORLD.stranger: (404, "workflow-not-found")}
ON_UNIT = {
    WORLD.owner: (200, ""),
    WORLD.writer: (200, ""),
    WORLD.reader: (404, "computing-unit-not-found"),
    WORLD.colleague: (403, "computing-unit-forbidden"),
    WORLD.admin: (403, "computing-unit-forbidden"),
    WORLD.stranger: (404, "computing-unit-not-found"),
    **REFUSED_ROLES,
}
EXPORT = READ_WORKFLOW | {WORLD.reader: (404, "computing-unit-not-found")}
UNIT = f"/v1/computing-units/{WORLD.computing_unit_id}"
SELECTED = {"workflow_id": WORLD.workflow_id, "execution_ids": "[eid]"}
EXPORTED = {
    "computing_unit_id": WORLD.computing_unit_id,
    "operators": [{"id": "op-1", "output_type": "csv"}],
}
NO_USER: Mapping[User, tuple[int, str]] = {}

CALLS: dict[tuple[str, str], tuple[str, Any, Mapping[User, tuple[int, str]]]] = {
    ("POST", "/v1/executions"): ("/v1/executions", HERE, CREATE),
    ("GET", "/v1/executions/{execution_id}"): (RUN, None, READ_RUN),
    ("GET", "/v1/executions/{execution_id}/uris"): (RUN + "/uris", None, READ_RUN),
    ("GET", "/v1/executions/{execution_id}/result-uri"): (
        RUN + "/result-uri?operator_id=op-1", None, READ_RUN,
    ),
    ("GET", "/v1/executions/{execution_id}/operators/{operator_id}/console"): (
        RUN + CONSOLE, None, READ_RUN,
    ),
    ("GET", "/v1/workflows/{workflow_id}/executions/latest"): (
        WORKFLOW + "/executions/latest", None, READ_WORKFLOW,
    ),
    ("GET", "/v1/workflows/{workflow_id}/executions"): (
        WORKFLOW + "/executions", None, READ_WORKFLOW,
    ),
    ("GET", "/v1/token"): ("/v1/token", None, ANYONE),
    ("POST", "/v1/executions/{execution_id}/binding"): (RUN + "/binding", {}, WRITE),
    ("PATCH", "/v1/executions/{execution_id}"): (RUN, {"status": "RUNNING"}, WRITE),
    ("PUT", "/v1/executions/{execution_id}/ports/{global_port_id}"): (
        RUN + "/ports/{port}", {"result_uri": "{result_uri}"}, WRITE,
    ),
    ("PATCH", "/v1/executions/{execution_id}/ports/{global_port_id}"): (
        RUN + "/ports/{port}", {"result_bytes": 5}, WRITE,
    ),
    ("PUT", "/v1/executions/{execution_id}/operators/{operator_id}/console"): (
        RUN + CONSOLE, {"uri": "{console_uri}"}, WRITE,
    ),
    ("PATCH", "/v1/executions/{execution_id}/operators/{operator_id}/console"): (
        RUN + CONSOLE, {"bytes": 5}, WRITE,
    ),
    ("DELETE", "/v1/executions/{execution_id}/uris"): (RUN + "/uris", None, WRITE),
    ("PUT", "/v1/executions/{execution_id}/operator-costs"): (
        RUN + "/operator-costs", {"operators": {"op-1": 1.5}}, WRITE,
    ),
    ("POST", "/v1/executions/delete"): ("/v1/executions/delete", SELECTED, SELECT),
    ("POST", "/v1/executions/bookmark"): (
        "/v1/executions/bookmark", {**SELECTED, "bookmarked": True}, SELECT,
    ),
    ("GET", "/v1/workflows/{workflow_id}/versions/latest"): (
        WORKFLOW + "/versions/latest", None, READ_WORKFLOW,
    ),
    ("GET", "/v1/workflows/{workflow_id}/operator-costs"): (
        WORKFLOW + "/operator-costs", None, READ_WORKFLOW,
    ),
    ("GET", "/v1/workflows/{workflow_id}/executions/{execution_id}"): (
        WORKFLOW + "/executions/{eid}", None, READ_RUN,
    ),
    ("POST", "/v1/workflows/{workflow_id}/export-plan"): (
        WORKFLOW + "/export-plan", EXPORTED, EXPORT,
    ),
    ("GET", "/v1/computing-units/{computing_unit_id}/expired-executions"): (
        UNIT + "/expired-executions?ttl_seconds=60", None, ON_UNIT | {WORLD.admin: (200, "")},
    ),
    ("POST", "/v1/computing-units/{computing_unit_id}/expired-executions/clear"): (
        UNIT + "/expired-executions/clear",
        {"execution_ids": [WORLD.failed_execution_id]},
        ON_UNIT,
    ),
    ("POST", "/v1/computing-units/{computing_unit_id}/boots"): (
        UNIT + "/boots", {"boot_id": "boot-1"}, ON_UNIT,
    ),
    ("GET", "/v1/bindings"): ("/v1/bindings", None, NO_USER),
    ("POST", "/v1/bindings/abandoned"): (
        "/v1/bindings/abandoned", {"execution_ids": [1]}, NO_USER,
    ),
    ("POST", "/v1/lease-renewals"): ("/v1/lease-renewals", {"execution_ids": [1]}, NO_USER),
    ("POST", "/v1/batches"): ("/v1/batches", {}, NO_USER),
}  # fmt: skip

BAD_TOKENS = {
    "no token": (None, (401, "token-missing")),
    "nonsense": ("nonsense", (401, "token-invalid")),
    "expired": (mint(1, ttl_s=-31), (401, "token-expired")),
    "expired, ADMIN": (mint(5, "ADMIN", ttl_s=-WEEK_S), (401, "token-expired")),
    "another key": (mint(1, secret="some-other-deployments-secret"), (401, "token-invalid")),
    "alg none": (
        f"{part({'alg': 'none'})}.{mint(1).split('.')[1]}.", (401, "token-invalid"),
    ),
    "unsigned": (mint(1).rpartition(".")[0] + ".", (401, "token-invalid")),
    "claims of an ADMIN": (
        ".".join([mint(1).split(".")[0], mint(5, "ADMIN").split(".")[1], mint(1).split(".")[2]]),
        (401, "token-invalid"),
    ),
    "another signature": (
        mint(1).rpartition(".")[0] + "." + base64url(bytes(32)), (401, "token-invalid"),
    ),
}  # fmt: skip


def of_users(routes: Iterable[AuthenticatedRoute]) -> list[Any]:
    return [
        pytest.param(route, user, id=f"{route.method} {route.path} by {user.name}")
        for route in routes
        for user in CALLS[route.method, route.path][2]
    ]


def named(routes: Iterable[AuthenticatedRoute]) -> list[Any]:
    return [pytest.param(route, id=f"{route.method} {route.path}") for route in routes]


USER_ROUTES = [route for route in ROUTES if route.needs is not Needs.SOURCE]
SIGNED_ROUTES = [route for route in ROUTES if route.needs is not Needs.USER]
BOUND_ROUTES = [
    route
    for route in ROUTES
    if route.needs is Needs.USER_AND_SOURCE
    and "{execution_id}" in route.path
    and not route.path.endswith("/binding")
]


@pytest.fixture
async def eid(sidecar: Sidecar) -> int:
    """A run of the owner's, bound to the sidecar, with a result and console messages."""
    execution_id = int((await sidecar.create()).body["execution_id"])
    run = RUN.format(eid=execution_id)
    result = {"result_uri": result_uri(WORLD.workflow_id, execution_id, PORT)}
    console = {"uri": console_uri(WORLD.workflow_id, execution_id, "op-1")}
    for path, body in ((f"/ports/{quote(PORT)}", result), (CONSOLE, console)):
        stored = await sidecar.call("PUT", run + path, body, user=WORLD.owner)
        assert stored.status == 200, stored.body
    return execution_id


def filled(route: AuthenticatedRoute, eid: int) -> tuple[str, Any]:
    """Target and body of a call for the run."""
    target, body, _ = CALLS[route.method, route.path]
    uris: dict[str, Any] = {
        "[eid]": [eid],
        "{result_uri}": result_uri(WORLD.workflow_id, eid, PORT),
        "{console_uri}": console_uri(WORLD.workflow_id, eid, "op-1"),
    }
    if body is not None:
        body = {key: uris.get(str(value), value) for key, value in body.items()}
    return target.format(eid=eid, port=quote(PORT)), body


def test_every_route_is_known_here() -> None:
    assert {(route.method, route.path) for route in ROUTES} == set(CALLS)


@pytest.mark.parametrize(("route", "user"), of_users(USER_ROUTES))
async def test_a_user_gets_what_their_relation_allows(
    sidecar: Sidecar, eid: int, route: AuthenticatedRoute, user: User
) -> None:
    expected = CALLS[route.method, route.path][2][user]
    target, body = filled(route, eid)

    reply = await sidecar.call(route.method, target, body, user=user)

    assert reply.outcome == expected
    assert reply.headers["X-User-Id"] == str(user.user_id)
    assert int(reply.headers["X-Token-Expires-At"]) > 0


@pytest.mark.parametrize("route", named(USER_ROUTES))
async def test_a_bad_token_gets_401(sidecar: Sidecar, eid: int, route: AuthenticatedRoute) -> None:
    target, body = filled(route, eid)

    for name, (token, expected) in BAD_TOKENS.items():
        reply = await sidecar.call(route.method, target, body, token=token)
        assert reply.outcome == expected, name
        assert reply.headers["WWW-Authenticate"].startswith("Bearer"), name
        assert "X-User-Id" not in reply.headers, name


@pytest.mark.parametrize("route", named(SIGNED_ROUTES))
async def test_an_unsigned_call_gets_401(
    sidecar: Sidecar, eid: int, route: AuthenticatedRoute
) -> None:
    target, body = filled(route, eid)
    user = None if route.needs is Needs.SOURCE else WORLD.owner

    reply = await sidecar.call(route.method, target, body, user=user, is_signed=False)

    assert reply.outcome == (401, "assertion-missing")


@pytest.mark.parametrize("route", named(r for r in SIGNED_ROUTES if r.method != "GET"))
async def test_a_call_signed_for_another_target_gets_401(
    sidecar: Sidecar, eid: int, route: AuthenticatedRoute
) -> None:
    target, _ = filled(route, eid)
    token = mint(WORLD.owner.user_id)
    headers = sidecar.key.headers(route.method, "/v1/other", token=token, idempotency_key="k")

    async with sidecar.client.request(route.method, target, headers=headers) as response:
        told = await response.json(content_type=None)

    assert (response.status, told["type"]) == (401, "assertion-invalid")


@pytest.mark.parametrize("route", named(BOUND_ROUTES))
async def test_the_executions_own_user_cannot_write_through_another_sidecar(
    sidecar: Sidecar, eid: int, route: AuthenticatedRoute
) -> None:
    target, body = filled(route, eid)

    reply = await sidecar.another().call(route.method, target, body, user=WORLD.owner)

    assert reply.outcome == (403, "not-bound")
