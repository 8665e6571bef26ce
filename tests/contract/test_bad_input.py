"""Bad input of each call is one problem that names the field and the limit.

Made from the table of routes and their examples: one thing at a time is made wrong in a call
that is right. No central listens and the spool stays empty: what is refused reaches neither.
"""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from sidecar.app import ROUTES, local_app, openapi
from sidecar.examples import EXAMPLES
from sidecar.kit.routing import Route
from sidecar.lifecycle import core
from sidecar.settings import Settings

DOCUMENT: dict[str, Any] = openapi()


@dataclass(frozen=True)
class Wrong:
    """A call in which one thing is wrong."""

    what: str
    target: str
    body: Any
    field: str
    limit: str = ""
    """What must be said of it."""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator["TestClient[web.Request, web.Application]"]:
    settings = Settings.from_environment(
        {"SIDECAR_CENTRAL_URL": "http://127.0.0.1:9", "SIDECAR_SPOOL_DIR": str(tmp_path)}
    )
    async with (
        core(settings) as sidecar,
        TestClient(TestServer(local_app(sidecar.services, sidecar.metrics))) as client,
    ):
        yield client
    assert sidecar.spool.last_seq == 0


def operation_of(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = DOCUMENT["paths"][route.path][route.method.lower()]
    return operation


def named(routes: Any) -> list[Any]:
    return [pytest.param(route, id=f"{route.method} {route.path}") for route in routes]


def target_of(route: Route, parameters: dict[str, Any]) -> str:
    """Path and query of a call with these parameters."""
    path, query = route.path, {}
    for name, value in parameters.items():
        text = value if isinstance(value, str) else json.dumps(value)
        if "{" + name + "}" in route.path:
            path = path.replace("{" + name + "}", quote(text, safe=""))
        else:
            query[name] = text
    return path + ("?" + urlencode(query) if query else "")


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema itself: a reference followed, "or null" left out."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return resolved(DOCUMENT["components"]["schemas"][name])
    options = [option for option in schema.get("anyOf", ()) if option.get("type") != "null"]
    return resolved(options[0]) if len(options) == 1 else schema


def wrong_values(schema: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """What is wrong, a value that is, and what must be said of it."""
    schema = resolved(schema)
    if "maximum" in schema:
        yield "too large", schema["maximum"] + 1, str(schema["maximum"])
    if "minimum" in schema:
        yield "too small", schema["minimum"] - 1, str(schema["minimum"])
    if "maxLength" in schema:
        yield "too long", "x" * (schema["maxLength"] + 1), str(schema["maxLength"])
    if "maxItems" in schema:
        yield "too many", [1] * (schema["maxItems"] + 1), str(schema["maxItems"])
        yield "none", [], str(schema["minItems"])
    if schema.get("type") == "string" and "enum" not in schema:
        yield "a NUL", "a\x00b", ""


def wrong_parameters(route: Route) -> Iterator[Wrong]:
    example = EXAMPLES[route.method, route.path]
    operation = operation_of(route)
    for parameter in operation["parameters"]:
        name, schema = parameter["name"], parameter["schema"]
        if parameter["in"] == "header":
            continue
        for what, value, limit in wrong_values(schema):
            if what in {"too large", "too small", "too long", "a NUL"}:
                target = target_of(route, {**example.parameters, name: value})
                yield Wrong(f"{name} {what}", target, example.body, name, limit)
        if resolved(schema).get("type") in {"integer", "number", "boolean"}:
            target = target_of(route, {**example.parameters, name: "much"})
            yield Wrong(f"{name} no number", target, example.body, name)
        if parameter["required"] and parameter["in"] == "query":
            rest = {key: value for key, value in example.parameters.items() if key != name}
            yield Wrong(f"{name} missing", target_of(route, rest), example.body, name, "required")
    if route.query_type.__struct_config__.forbid_unknown_fields:
        target = target_of(route, {**example.parameters, "colour": "red"})
        yield Wrong("an unknown parameter", target, example.body, "colour", "no query parameter")


def wrong_bodies(route: Route) -> Iterator[Wrong]:
    if route.body_type is None:
        return
    example = EXAMPLES[route.method, route.path]
    target = target_of(route, dict(example.parameters))
    for what, member, body, limit in _wrong_members(resolved(schema_of(route)), example.body):
        yield Wrong(f"{member} {what}", target, body, member, limit)
    if route.body_type.__struct_config__.forbid_unknown_fields:
        unknown = {**example.body, "colour": "red"}
        yield Wrong("an unknown field", target, unknown, "colour", "no field")
    yield Wrong("a list", target, [1], "body", "object")


def schema_of(route: Route) -> dict[str, Any]:
    operation = operation_of(route)
    schema: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return schema


def required_of(route: Route) -> list[str]:
    """The fields that the call's body must have."""
    return list(resolved(schema_of(route)).get("required", ()))


def _wrong_members(
    schema: dict[str, Any], right: dict[str, Any]
) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    for name in schema.get("required", ()):
        rest = {key: value for key, value in right.items() if key != name}
        yield "missing", name, rest, "required"
    for name, member in schema["properties"].items():
        yield "of a wrong type", name, {**right, name: [[1]]}, ""
        for what, value, limit in wrong_values(member):
            yield what, name, {**right, name: value}, limit


WITH_PARAMETERS = [route for route in ROUTES if list(wrong_parameters(route))]
WITH_BODY = [route for route in ROUTES if route.body_type is not None]


async def refused(
    client: "TestClient[web.Request, web.Application]", route: Route, wrong: Wrong
) -> None:
    """The call is refused with one problem, about the one thing that is wrong."""
    url = client.make_url("").join(URL(wrong.target, encoded=True))
    content = None if wrong.body is None else msgspec.json.encode(wrong.body)
    headers = {"Authorization": "Bearer t"}
    if content is not None:
        headers["Content-Type"] = "application/json"

    async with client.session.request(route.method, url, data=content, headers=headers) as answer:
        problem = await answer.json(content_type="application/problem+json")

    assert (answer.status, problem["type"]) == (400, "invalid-request"), (wrong, problem)
    [error] = problem["errors"]
    assert error["field"].partition("[")[0] == wrong.field, (wrong, problem)
    assert wrong.limit in error["expected"], (wrong, problem)
    assert wrong.field in problem["detail"]


@pytest.mark.parametrize("route", named(WITH_PARAMETERS))
async def test_a_bad_parameter_is_named(client: Any, route: Route) -> None:
    for wrong in wrong_parameters(route):
        await refused(client, route, wrong)


@pytest.mark.parametrize("route", named(WITH_BODY))
async def test_a_bad_field_is_named(client: Any, route: Route) -> None:
    for wrong in wrong_bodies(route):
        await refused(client, route, wrong)


@pytest.mark.parametrize("route", named(r for r in WITH_BODY if len(required_of(r)) > 1))
async def test_every_bad_field_is_named_at_once(client: Any, route: Route) -> None:
    example = EXAMPLES[route.method, route.path]
    body = {**example.body, **dict.fromkeys(required_of(route))}
    target = target_of(route, dict(example.parameters))
    url = client.make_url("").join(URL(target, encoded=True))

    async with client.session.request(
        route.method, url, json=body, headers={"Authorization": "Bearer t"}
    ) as answer:
        problem = await answer.json(content_type="application/problem+json")

    assert sorted(error["field"] for error in problem["errors"]) == sorted(required_of(route))


NO_JSON: list[tuple[bytes, str, tuple[int, str]]] = [
    (b"{", "application/json", (400, "invalid-request")),
    (b"", "application/json", (400, "invalid-request")),
    (b"\xff", "application/json", (400, "invalid-request")),
    (b"[" * 100_000, "application/json", (400, "invalid-request")),
    (b"{}", "application/x-www-form-urlencoded", (415, "unsupported-media-type")),
    (b"x" * (2**20 + 1), "application/json", (413, "body-too-large")),
]


@pytest.mark.parametrize("route", named(WITH_BODY))
async def test_what_is_no_json_is_one_problem(client: Any, route: Route) -> None:
    target = target_of(route, dict(EXAMPLES[route.method, route.path].parameters))
    url = client.make_url("").join(URL(target, encoded=True))

    for content, content_type, outcome in NO_JSON:
        headers = {"Authorization": "Bearer t", "Content-Type": content_type}
        async with client.session.request(
            route.method, url, data=BytesIO(content), headers=headers
        ) as answer:
            problem = await answer.json(content_type="application/problem+json")
        assert (answer.status, problem["type"]) == outcome, content[:20]
