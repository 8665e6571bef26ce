"""Bad input to any call of either service is one problem that names the field and the limit.

The sidecar's calls are made without a central and leave its spool empty: a refused request
reaches neither. Central's are signed by a sidecar and carry the owner's token. As nothing is
changed, all calls go to one sidecar and one central.
"""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from io import BytesIO
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

import central.app
import sidecar.server.app
from central.auth.authenticator import CredentialPolicy
from dev.tokens import mint
from dev.world import WORLD
from sidecar.lifecycle import build_sidecar
from sidecar.settings import Settings
from sidecar.spool.spool import Spool
from tests.contract.bad_input import NO_JSON, Api, check
from tests.databases import Template, copy_of
from tests.integration.central.central_fixtures import Sidecar, running_central

LOCAL = Api(sidecar.server.app.ROUTES, sidecar.server.app.openapi())
# A batch is validated entry by entry, and its fields outlive versions: it has tests of its own.
CENTRAL = Api(
    [route for route in central.app.ROUTES if route.path != "/v1/batches"],
    central.app.openapi(),
)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple["TestClient[web.Request, web.Application]", Spool]]:
    """A client of a sidecar, and its spool."""
    settings = Settings.from_environment(
        {
            "SIDECAR_CENTRAL_URL": "http://127.0.0.1:9",
            "SIDECAR_SPOOL_DIR": str(tmp_path_factory.mktemp("spool")),
        }
    )
    async with (
        build_sidecar(settings) as running,
        TestClient(
            TestServer(sidecar.server.app.build_app(running.services, running.metrics))
        ) as client,
    ):
        yield client, running.spool


@pytest.fixture
def client(
    local: tuple["TestClient[web.Request, web.Application]", Spool],
) -> Iterator["TestClient[web.Request, web.Application]"]:
    client, spool = local
    yield client
    assert spool.last_seq == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def caller(template: Template) -> AsyncIterator[Sidecar]:
    unlimited = {f"CENTRAL_LIMIT_{who}_CALLS_PER_S": "100000" for who in ("USER", "SOURCE")}
    async with (
        copy_of(template) as database,
        running_central(database.central_url, variables=unlimited) as caller,
    ):
        await caller.create()  # a source that is bound to nothing may send small bodies only
        yield caller


def named(routes: Sequence[Any]) -> list[Any]:
    return [pytest.param(route, id=f"{route.method} {route.path}") for route in routes]


async def local_call(
    client: Any, route: Any, target: str, content: bytes, content_type: str = "application/json"
) -> tuple[int, Any]:
    """Status and problem of a call to the sidecar."""
    headers = {"Authorization": "Bearer t"}
    if route.body_type is not None:
        headers["Content-Type"] = content_type
    url = client.make_url("").join(URL(target, encoded=True))
    async with client.session.request(
        route.method, url, data=BytesIO(content) if content else None, headers=headers
    ) as response:
        return response.status, await response.json(content_type="application/problem+json")


async def central_call(
    caller: Sidecar,
    route: Any,
    target: str,
    content: bytes,
    content_type: str = "application/json",
) -> tuple[int, Any]:
    """Status and problem of a signed call to central."""
    headers = caller.key.headers(
        route.method,
        target,
        content,
        token=None if route.needs is CredentialPolicy.SOURCE else mint(WORLD.owner.user_id),
        idempotency_key="k" if route.needs is CredentialPolicy.USER_AND_SOURCE else None,
    )
    if route.body_type is not None:
        headers["Content-Type"] = content_type
    url = caller.client.make_url("").join(URL(target, encoded=True))
    async with caller.client.session.request(
        route.method, url, data=BytesIO(content) if content else None, headers=headers
    ) as response:
        return response.status, await response.json(content_type="application/problem+json")


def encoded(body: Any) -> bytes:
    return b"" if body is None else msgspec.json.encode(body)


@pytest.mark.parametrize("route", named(LOCAL.with_parameters()))
async def test_the_sidecar_names_a_bad_parameter(client: Any, route: Any) -> None:
    for call in LOCAL.invalid_parameters(route):
        check(call, *await local_call(client, route, call.target, encoded(call.body)))


@pytest.mark.parametrize("route", named(LOCAL.with_body()))
async def test_the_sidecar_names_a_bad_field(client: Any, route: Any) -> None:
    for call in LOCAL.invalid_bodies(route):
        check(call, *await local_call(client, route, call.target, encoded(call.body)))


@pytest.mark.parametrize("route", named(LOCAL.with_two_fields()))
async def test_the_sidecar_names_every_bad_field_at_once(client: Any, route: Any) -> None:
    content = encoded(LOCAL.without_required(route))

    _, problem = await local_call(client, route, LOCAL.target_of(route), content)

    assert sorted(error["field"] for error in problem["errors"]) == LOCAL.required_of(route)


@pytest.mark.parametrize("route", named(LOCAL.with_body()))
async def test_a_body_without_json_is_one_problem_of_the_sidecar(client: Any, route: Any) -> None:
    for content, content_type, outcome in NO_JSON:
        target = LOCAL.target_of(route)
        status, problem = await local_call(client, route, target, content, content_type)
        assert (status, problem["type"]) == outcome, content[:20]


@pytest.mark.parametrize("route", named(CENTRAL.with_parameters()))
async def test_central_names_a_bad_parameter(caller: Sidecar, route: Any) -> None:
    for call in CENTRAL.invalid_parameters(route):
        check(call, *await central_call(caller, route, call.target, encoded(call.body)))


@pytest.mark.parametrize("route", named(CENTRAL.with_body()))
async def test_central_names_a_bad_field(caller: Sidecar, route: Any) -> None:
    for call in CENTRAL.invalid_bodies(route):
        check(call, *await central_call(caller, route, call.target, encoded(call.body)))


@pytest.mark.parametrize("route", named(CENTRAL.with_two_fields()))
async def test_central_names_every_bad_field_at_once(caller: Sidecar, route: Any) -> None:
    content = encoded(CENTRAL.without_required(route))

    _, problem = await central_call(caller, route, CENTRAL.target_of(route), content)

    assert sorted(error["field"] for error in problem["errors"]) == CENTRAL.required_of(route)


@pytest.mark.parametrize("route", named([r for r in CENTRAL.with_body() if not r.body_is_optional]))
async def test_a_body_without_json_is_one_problem_of_central(caller: Sidecar, route: Any) -> None:
    for content, content_type, outcome in NO_JSON:
        target = CENTRAL.target_of(route)
        status, problem = await central_call(caller, route, target, content, content_type)
        assert (status, problem["type"]) == outcome, content[:20]


def other_methods(api: Api) -> list[Any]:
    """Each path with each method that it lacks, and those that it has."""
    known = ("GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "HEAD")
    return [
        pytest.param(method, path, ", ".join(sorted(has)), id=f"{method} {path}")
        for path, operations in api.document["paths"].items()
        if (has := {name.upper() for name in operations})
        for method in known
        if method not in has
    ]


@pytest.mark.parametrize(("method", "path", "allowed"), other_methods(LOCAL))
async def test_a_method_that_a_path_of_the_sidecar_does_not_have_is_405(
    client: Any, method: str, path: str, allowed: str
) -> None:
    """A literal path does not match a template: `delete` is no execution id."""
    url = client.make_url(re.sub(r"\{\w+\}", "1", path))

    async with client.session.request(
        method, url, headers={"Authorization": "Bearer t"}
    ) as response:
        assert (response.status, response.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize(("method", "path", "allowed"), other_methods(CENTRAL))
async def test_a_method_that_a_path_of_central_does_not_have_is_405(
    caller: Sidecar, method: str, path: str, allowed: str
) -> None:
    target = re.sub(r"\{\w+\}", "1", path)
    headers = caller.key.headers(method, target, token=mint(WORLD.owner.user_id))

    async with caller.client.session.request(
        method, caller.client.make_url(target), headers=headers
    ) as response:
        assert (response.status, response.headers["Allow"]) == (405, allowed)
