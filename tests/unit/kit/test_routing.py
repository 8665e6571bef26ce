"""Which bodies a route accepts: their content type, their character set, and none."""

import json

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from kit.http.body_reader import RequestBody
from kit.http.routing import (
    Response,
    Route,
    RouteTable,
    TypedRequest,
    add_routes,
    problem_middleware,
)

routes = RouteTable(Route, tag="")


class Body(msgspec.Struct, forbid_unknown_fields=True):
    count: int


@routes.put("/json")
async def take_json(request: TypedRequest[None, None, None, Body]) -> Response[Body]:
    return Response(request.body)


@routes.put("/nothing")
async def take_nothing(request: TypedRequest[None, None, None, None]) -> Response[Body]:
    return Response(Body(0))


async def put(path: str, body: bytes, content_type: str) -> tuple[int, str]:
    async def authenticate(request: web.Request, route: Route, received: RequestBody) -> None:
        await received.read(None)

    app = web.Application(middlewares=[problem_middleware])
    add_routes(app, routes, authenticate)
    async with (
        TestClient(TestServer(app)) as client,
        client.put(path, data=body, headers={"Content-Type": content_type}) as response,
    ):
        return response.status, json.loads(await response.read()).get("type", "")


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", (200, "")),
        ("application/json; charset=UTF-8", (200, "")),
        ('application/json; charset="utf8"', (200, "")),
        ("application/json; charset=latin-1", (415, "unsupported-media-type")),
        ("application/json; charset=utf-16", (415, "unsupported-media-type")),
        ("text/plain", (415, "unsupported-media-type")),
    ],
)
async def test_json_is_utf_8(content_type: str, expected: tuple[int, str]) -> None:
    assert await put("/json", b'{"count": 1}', content_type) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (200, "")),
        (b"{}", (200, "")),
        (b" { }\n", (200, "")),
        (b'{"a": 1}', (400, "invalid-request")),
        (b"[]", (400, "invalid-request")),
    ],
)
async def test_an_empty_object_is_no_body(body: bytes, expected: tuple[int, str]) -> None:
    assert await put("/nothing", body, "application/json") == expected
