"""Default is no: each route by each relation of the caller to what the call names.

Generated from the service's own table of routes: a route that `CALLS` does not know fails, and
each is called by everybody there is, with every kind of bad token, and unsigned. All calls go to
one central over one database; each test has a run of its own.
"""

from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
import pytest_asyncio

from central.app import ROUTES
from central.auth.authenticator import AuthenticatedRoute, CredentialPolicy
from dev.tokens import WEEK_S, base64url, mint, part
from dev.world import WORLD, User
from tests.databases import Template, copy_of
from tests.integration.central.central_fixtures import Sidecar, running_central
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

CONSOLE = "/operators/op-1/console"
RUN = "/v1/executions/{eid}"
WORKFLOW = "/v1/workflows/{wid}"
UNIT = "/v1/computing-units/{cuid}"
HERE = {
    "workflow_id": "{wid}",
    "computing_unit_id": "{cuid}",
    "environment_version": "test",
}
SELECTED = {"workflow_id": "{wid}", "execution_ids": ["{eid}"]}
EXPORTED = {
    "computing_unit_id": "{cuid}",
    "operators": [{"id": "op-1", "output_type": "csv"}],
}


def no_user(scene: Scene, user: User) -> Outcome:
    """The call takes a source's assertion and no token."""
    raise AssertionError("no user makes this call")


CALLS: dict[tuple[str, str], tuple[str, Any, Rule]] = {
    ("POST", "/v1/executions"): ("/v1/executions", HERE, create),
    ("GET", "/v1/executions/{execution_id}"): (RUN, None, read_run),
    ("GET", "/v1/executions/{execution_id}/uris"): (RUN + "/uris", None, read_run),
    ("GET", "/v1/executions/{execution_id}/result-uri"): (
        RUN + "/result-uri?operator_id=op-1", None, read_run,
    ),
    ("GET", "/v1/executions/{execution_id}/operators/{operator_id}/console"): (
        RUN + CONSOLE, None, read_run,
    ),
    ("GET", "/v1/workflows/{workflow_id}/executions/latest"): (
        WORKFLOW + "/executions/latest", None, read_workflow,
    ),
    ("GET", "/v1/workflows/{workflow_id}/executions"): (
        WORKFLOW + "/executions", None, read_workflow,
    ),
    ("GET", "/v1/token"): ("/v1/token", None, anyone),
    ("POST", "/v1/executions/{execution_id}/binding"): (RUN + "/binding", {}, write),
    ("PATCH", "/v1/executions/{execution_id}"): (RUN, {"status": "RUNNING"}, write),
    ("PUT", "/v1/executions/{execution_id}/ports/{global_port_id}"): (
        RUN + "/ports/{port}", {"result_uri": "{result_uri}"}, write,
    ),
    ("PATCH", "/v1/executions/{execution_id}/ports/{global_port_id}"): (
        RUN + "/ports/{port}", {"result_bytes": 5}, write,
    ),
    ("PUT", "/v1/executions/{execution_id}/operators/{operator_id}/console"): (
        RUN + CONSOLE, {"uri": "{console_uri}"}, write,
    ),
    ("PATCH", "/v1/executions/{execution_id}/operators/{operator_id}/console"): (
        RUN + CONSOLE, {"bytes": 5}, write,
    ),
    ("DELETE", "/v1/executions/{execution_id}/uris"): (RUN + "/uris", None, write),
    ("PUT", "/v1/executions/{execution_id}/operator-costs"): (
        RUN + "/operator-costs", {"operators": {"op-1": 1.5}}, write,
    ),
    ("POST", "/v1/executions/delete"): ("/v1/executions/delete", SELECTED, select),
    ("POST", "/v1/executions/bookmark"): (
        "/v1/executions/bookmark", {**SELECTED, "bookmarked": True}, select,
    ),
    ("GET", "/v1/workflows/{workflow_id}/versions/latest"): (
        WORKFLOW + "/versions/latest", None, read_workflow,
    ),
    ("GET", "/v1/workflows/{workflow_id}/operator-costs"): (
        WORKFLOW + "/operator-costs", None, read_workflow,
    ),
    ("GET", "/v1/workflows/{workflow_id}/executions/{execution_id}"): (
        WORKFLOW + "/executions/{eid}", None, read_run,
    ),
    ("POST", "/v1/workflows/{workflow_id}/export-plan"): (
        WORKFLOW + "/export-plan", EXPORTED, export,
    ),
    ("GET", "/v1/computing-units/{computing_unit_id}/expired-executions"): (
        UNIT + "/expired-executions?ttl_seconds=60", None, read_unit,
    ),
    ("POST", "/v1/computing-units/{computing_unit_id}/expired-executions/clear"): (
        UNIT + "/expired-executions/clear",
        {"execution_ids": ["{ended}"]},
        act_on_unit,
    ),
    ("POST", "/v1/computing-units/{computing_unit_id}/boots"): (
        UNIT + "/boots", {"boot_id": "boot-1"}, act_on_unit,
    ),
    ("POST", "/v1/executions/{execution_id}/run-token"): (RUN + "/run-token", None, no_user),
    ("GET", "/v1/bindings"): ("/v1/bindings", None, no_user),
    ("POST", "/v1/bindings/abandoned"): (
        "/v1/bindings/abandoned", {"execution_ids": [1]}, no_user,
    ),
    ("POST", "/v1/lease-renewals"): ("/v1/lease-renewals", {"execution_ids": [1]}, no_user),
    ("POST", "/v1/batches"): ("/v1/batches", {}, no_user),
    ("POST", "/v1/successions"): ("/v1/successions", {"statement": "."}, no_user),
}  # fmt: skip

pytestmark = pytest.mark.asyncio(loop_scope="module")

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
        for user in WORLD.all_users()
    ]


def named(routes: Iterable[AuthenticatedRoute]) -> list[Any]:
    return [pytest.param(route, id=f"{route.method} {route.path}") for route in routes]


USER_ROUTES = [route for route in ROUTES if route.needs is not CredentialPolicy.SOURCE]
SIGNED_ROUTES = [route for route in ROUTES if route.needs is not CredentialPolicy.USER]
BOUND_ROUTES = [
    route
    for route in ROUTES
    if route.needs is CredentialPolicy.USER_AND_SOURCE
    and "{execution_id}" in route.path
    and not route.path.endswith("/binding")
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def central(template: Template) -> AsyncIterator[Sidecar]:
    unlimited = {f"CENTRAL_LIMIT_{who}_CALLS_PER_S": "100000" for who in ("USER", "SOURCE")}
    keys = {"CENTRAL_RUN_TOKEN_KEYS": "test:a-secret-of-run-tokens-and-nothing-else"}
    async with (
        copy_of(template) as database,
        running_central(database.central_url, variables=unlimited | keys) as sidecar,
    ):
        yield sidecar


@pytest.fixture
def sidecar(central: Sidecar) -> Sidecar:
    """One that has bound nothing yet."""
    return central.another()


@pytest_asyncio.fixture(loop_scope="module")
async def eid(sidecar: Sidecar) -> int:
    """A run of the owner's, bound to the sidecar, with a result and console messages."""
    return await begun(sidecar, PRIVATE)


async def begun(sidecar: Sidecar, scene: Scene) -> int:
    """The scene's run."""
    created = await sidecar.create(
        scene.runner,
        workflow_id=scene.workflow_id,
        computing_unit_id=scene.computing_unit_id,
    )
    execution_id = int(created.body["execution_id"])
    for name in ("ports/{global_port_id}", "operators/{operator_id}/console"):
        path, body, _ = CALLS["PUT", f"/v1/executions/{{execution_id}}/{name}"]
        where, what = target(path, scene, execution_id), filled(body, scene, execution_id)
        stored = await sidecar.call("PUT", where, what, user=scene.runner)
        assert stored.status == 200, stored.body
    return execution_id


def call_of(route: AuthenticatedRoute, scene: Scene, execution_id: int) -> tuple[str, Any]:
    """Target and body of a call for the scene's run."""
    path, body, _ = CALLS[route.method, route.path]
    return target(path, scene, execution_id), filled(body, scene, execution_id)


def expected_of(route: AuthenticatedRoute, scene: Scene, user: User) -> Outcome:
    outcome = CALLS[route.method, route.path][2](scene, user)
    return (201, "") if outcome == DONE and route.path == "/v1/executions" else outcome


async def test_every_route_has_an_authorization_case() -> None:
    assert {(route.method, route.path) for route in ROUTES} == set(CALLS)


@pytest.mark.parametrize(("route", "user"), of_users(USER_ROUTES))
async def test_a_user_gets_what_their_relation_allows(
    sidecar: Sidecar, eid: int, route: AuthenticatedRoute, user: User
) -> None:
    where, body = call_of(route, PRIVATE, eid)

    reply = await sidecar.call(route.method, where, body, user=user)

    assert reply.outcome == expected_of(route, PRIVATE, user)
    assert reply.headers["X-User-Id"] == str(user.user_id)
    assert int(reply.headers["X-Token-Expires-At"]) > 0


@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene != PRIVATE], ids=str)
async def test_rules_hold_for_every_user_in_every_scene(sidecar: Sidecar, scene: Scene) -> None:
    actual, expected = {}, {}
    for route in USER_ROUTES:
        execution_id = await begun(sidecar, scene)
        where, body = call_of(route, scene, execution_id)
        for user in in_order(scene):
            call = (route.method, route.path, user.name)
            reply = await sidecar.call(route.method, where, body, user=user)
            actual[call], expected[call] = reply.outcome, expected_of(route, scene, user)

    assert actual == expected


NAMING_A_RUN = [
    route
    for route in USER_ROUTES
    if "{execution_id}" in route.path or CALLS[route.method, route.path][1] == SELECTED
]


@pytest.mark.parametrize("route", named(NAMING_A_RUN))
async def test_hidden_and_missing_rows_run_the_same_statements(
    sidecar: Sidecar, eid: int, route: AuthenticatedRoute
) -> None:
    """Neither the words nor the work done tell whether a row exists."""

    def statements() -> dict[str, float]:
        return {
            sample.labels["statement"]: sample.value
            for metric in sidecar.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "central_statement_seconds_count"
        }

    actual = []
    await sidecar.get("/v1/token", WORLD.stranger)  # the account is read once for many calls
    for execution_id in (eid, 999_999):
        where, body = call_of(route, PRIVATE, execution_id)
        before = statements()
        reply = await sidecar.call(route.method, where, body, user=WORLD.stranger)
        done = {name: n - before.get(name, 0) for name, n in statements().items()}
        reply.body.pop("request_id")
        reply.body["detail"] = reply.body["detail"].replace(str(execution_id), "N")
        actual.append((reply.status, reply.body, {name: n for name, n in done.items() if n}))

    assert actual[0] == actual[1]
    assert actual[0][0] == 404


@pytest.mark.parametrize("route", named(USER_ROUTES))
async def test_a_bad_token_gets_401(sidecar: Sidecar, eid: int, route: AuthenticatedRoute) -> None:
    where, body = call_of(route, PRIVATE, eid)

    for name, (token, expected) in BAD_TOKENS.items():
        reply = await sidecar.call(route.method, where, body, token=token)
        assert reply.outcome == expected, name
        assert reply.headers["WWW-Authenticate"].startswith("Bearer"), name
        assert "X-User-Id" not in reply.headers, name


@pytest.mark.parametrize("route", named(SIGNED_ROUTES))
async def test_an_unsigned_call_gets_401(
    sidecar: Sidecar, eid: int, route: AuthenticatedRoute
) -> None:
    where, body = call_of(route, PRIVATE, eid)
    user = None if route.needs is CredentialPolicy.SOURCE else WORLD.owner

    reply = await sidecar.call(route.method, where, body, user=user, is_signed=False)

    assert reply.outcome == (401, "assertion-missing")


@pytest.mark.parametrize("route", named(r for r in SIGNED_ROUTES if r.method != "GET"))
async def test_a_call_signed_for_another_target_gets_401(
    sidecar: Sidecar, eid: int, route: AuthenticatedRoute
) -> None:
    where, _ = call_of(route, PRIVATE, eid)
    token = mint(WORLD.owner.user_id)
    headers = sidecar.key.headers(route.method, "/v1/other", token=token, idempotency_key="k")

    async with sidecar.client.request(route.method, where, headers=headers) as response:
        actual = await response.json(content_type=None)

    assert (response.status, actual["type"]) == (401, "assertion-invalid")


@pytest.mark.parametrize("route", named(BOUND_ROUTES))
async def test_the_executions_own_user_cannot_write_through_another_sidecar(
    sidecar: Sidecar, eid: int, route: AuthenticatedRoute
) -> None:
    where, body = call_of(route, PRIVATE, eid)

    reply = await sidecar.another().call(route.method, where, body, user=WORLD.owner)

    assert reply.outcome == (403, "not-bound")


READ_BY_RUN_TOKENS = {
    ("GET", "/v1/executions/{execution_id}"),
    ("GET", "/v1/executions/{execution_id}/uris"),
    ("GET", "/v1/executions/{execution_id}/result-uri"),
    ("GET", "/v1/executions/{execution_id}/operators/{operator_id}/console"),
    ("GET", "/v1/workflows/{workflow_id}/executions/{execution_id}"),
}


async def run_token(sidecar: Sidecar, execution_id: int) -> str:
    reply = await sidecar.call("POST", f"/v1/executions/{execution_id}/run-token")
    assert reply.status == 200, reply.body
    return str(reply.body["token"])


@pytest.mark.parametrize("route", named(USER_ROUTES))
async def test_a_run_token_is_good_for_the_reads_of_its_run(
    sidecar: Sidecar, eid: int, route: AuthenticatedRoute
) -> None:
    token = await run_token(sidecar, eid)
    where, body = call_of(route, PRIVATE, eid)

    reply = await sidecar.call(route.method, where, body, token=token)

    is_read = (route.method, route.path) in READ_BY_RUN_TOKENS
    assert reply.outcome == ((200, "") if is_read else (403, "run-token-scope"))


@pytest.mark.parametrize("route", named(USER_ROUTES))
async def test_a_run_token_is_good_for_no_other_run_source_or_unsigned_call(
    sidecar: Sidecar, eid: int, route: AuthenticatedRoute
) -> None:
    token, other = await run_token(sidecar, eid), await begun(sidecar, PRIVATE)
    where, body = call_of(route, PRIVATE, eid)
    elsewhere, other_body = call_of(route, PRIVATE, other)

    of_other_run = await sidecar.call(route.method, elsewhere, other_body, token=token)
    of_other_source = await sidecar.another().call(route.method, where, body, token=token)
    unsigned = await sidecar.call(route.method, where, body, token=token, is_signed=False)

    assert of_other_run.outcome == (403, "run-token-scope")
    assert of_other_source.outcome == (403, "run-token-scope")
    is_read = (route.method, route.path) in READ_BY_RUN_TOKENS
    assert unsigned.outcome == ((401, "assertion-missing") if is_read else (403, "run-token-scope"))
