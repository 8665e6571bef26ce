"""Large bodies share a room, all of one has to come in time, and small ones always fit."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from kit.http.body_reader import UNCOUNTED_BODY_BYTES, BodyReader
from kit.http.problems import Overloaded
from kit.http.routing import (
    Response,
    Route,
    RouteTable,
    TypedRequest,
    add_routes,
    problem_middleware,
)

ROOM = 100_000


@dataclass
class Service:
    """A service whose one call keeps its body until it is let go."""

    client: "TestClient[web.Request, web.Application]"
    intake: BodyReader
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    taken: "asyncio.Queue[int]" = field(default_factory=asyncio.Queue)

    async def put(self, body: Any, **headers: str) -> tuple[int, str]:
        sent = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        async with self.client.put("/", data=body, headers=sent) as answer:
            return answer.status, json.loads(await answer.read()).get("type", "")


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Service]:
    intake = BodyReader(**settings)
    app = web.Application(middlewares=[intake.connections.middleware, problem_middleware])
    service = Service(TestClient(TestServer(app)), intake)

    routes = RouteTable(Route, tag="")

    @routes.put("/", max_body_bytes=ROOM)
    async def keep(
        request: TypedRequest[None, None, None, msgspec.Raw],
    ) -> Response[dict[str, Any]]:
        service.taken.put_nowait(len(request.raw_body))
        await service.let_go.wait()
        return Response({})

    async def authenticate(request: web.Request, route: Route, body: bytes) -> None:
        return None

    add_routes(app, routes, authenticate, intake)
    async with service.client:
        yield service


def json_of(size_bytes: int) -> bytes:
    return b'"' + b"x" * (size_bytes - 2) + b'"'


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_body_is_held_until_its_call_is_answered(is_announced: bool) -> None:
    def body(size_bytes: int) -> Any:
        whole = json_of(size_bytes)
        return whole if is_announced else in_pieces(whole)

    async with serving(max_total_bytes=ROOM) as service:
        first = asyncio.create_task(service.put(body(60_000)))
        assert await service.taken.get() == 60_000
        refused = await service.put(body(60_000))
        small = asyncio.create_task(service.put(body(UNCOUNTED_BODY_BYTES)))
        fits = asyncio.create_task(service.put(body(40_000)))
        await service.taken.get()
        await service.taken.get()
        service.let_go.set()
        answered = [await task for task in (first, small, fits)]
        after = await service.put(body(60_000))

    assert refused == (503, "overloaded")
    assert answered == [(200, "")] * 3
    assert after == (200, "")
    assert service.intake.held_bytes == 0


async def test_a_body_that_is_refused_gives_back_what_had_come() -> None:
    async with serving(max_total_bytes=ROOM) as service:
        assert (await service.put(in_pieces(json_of(ROOM + 1))))[0] == 413
        assert (await service.put(b"[" * 90_000))[1] == "invalid-request"

    assert service.intake.held_bytes == 0


async def test_a_body_that_does_not_come_is_given_up() -> None:
    async def begun() -> AsyncIterator[bytes]:
        yield json_of(50_000)
        await asyncio.Event().wait()

    async with serving(max_total_bytes=ROOM, within_s=0.2) as service:
        assert await service.put(begun()) == (408, "body-too-slow")

    assert service.intake.held_bytes == 0


async def test_a_compressed_body_is_refused_before_it_is_read() -> None:
    async with serving() as service:
        packed = gzip.compress(json_of(10))

        assert await service.put(packed, Content_Encoding="gzip") == (415, "unsupported-media-type")


def test_of_one_address_nobody_holds_more_than_its_share() -> None:
    intake = BodyReader(max_total_bytes=ROOM, share=0.5)
    intake.take("crowd", 40_000)

    with pytest.raises(Overloaded):
        intake.take("crowd", 40_000)
    intake.take("other", 40_000)
    intake.give_back("crowd", 40_000)
    intake.take("crowd", 60_000)  # the largest body fits, where it is the only one

    assert intake.held_bytes == 100_000


def test_without_a_room_there_is_no_limit() -> None:
    intake = BodyReader()

    intake.take("a", 10**12)
    intake.take("a", 10**12)

    assert intake.held_bytes == 2 * 10**12
