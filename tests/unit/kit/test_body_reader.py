"""Large bodies share a byte budget, have to arrive in time, and small ones always fit."""

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

from kit.http.body_reader import UNCOUNTED_BODY_BYTES, BodyReader, RequestBody
from kit.http.problems import Overloaded
from kit.http.routing import (
    Response,
    Route,
    RouteTable,
    TypedRequest,
    add_routes,
    problem_middleware,
)

MAX_BYTES = 100_000


@dataclass
class Service:
    """A service whose one call holds its body until `release` is set."""

    client: "TestClient[web.Request, web.Application]"
    bodies: BodyReader
    release: asyncio.Event = field(default_factory=asyncio.Event)
    received: "asyncio.Queue[int]" = field(default_factory=asyncio.Queue)

    async def put(self, body: Any, **headers: str) -> tuple[int, str]:
        sent = {"Content-Type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        async with self.client.put("/", data=body, headers=sent) as response:
            return response.status, json.loads(await response.read()).get("type", "")


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Service]:
    bodies = BodyReader(**settings)
    app = web.Application(middlewares=[bodies.connections.middleware(), problem_middleware])
    service = Service(TestClient(TestServer(app)), bodies)

    routes = RouteTable(Route, tag="")

    @routes.put("/", max_body_bytes=MAX_BYTES)
    async def hold(
        request: TypedRequest[None, None, None, msgspec.Raw],
    ) -> Response[dict[str, Any]]:
        service.received.put_nowait(len(request.raw_body))
        await service.release.wait()
        return Response({})

    async def authenticate(request: web.Request, route: Route, body: RequestBody) -> None:
        await body.read(request.headers.get("Owner"))

    add_routes(app, routes, authenticate, bodies)
    async with service.client:
        yield service


def json_of(size_bytes: int) -> bytes:
    return b'"' + b"x" * (size_bytes - 2) + b'"'


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_body_is_counted_until_its_call_is_answered(is_announced: bool) -> None:
    def body(size_bytes: int) -> Any:
        whole = json_of(size_bytes)
        return whole if is_announced else in_pieces(whole)

    async with serving(max_total_bytes=MAX_BYTES) as service:
        first = asyncio.create_task(service.put(body(60_000)))
        assert await service.received.get() == 60_000
        refused = await service.put(body(60_000))
        small = asyncio.create_task(service.put(body(UNCOUNTED_BODY_BYTES)))
        fits = asyncio.create_task(service.put(body(40_000)))
        await service.received.get()
        await service.received.get()
        service.release.set()
        statuses = [await task for task in (first, small, fits)]
        after = await service.put(body(60_000))

    assert refused == (503, "overloaded")
    assert statuses == [(200, "")] * 3
    assert after == (200, "")
    assert service.bodies.buffered_bytes == 0


async def test_a_refused_body_releases_its_bytes() -> None:
    async with serving(max_total_bytes=MAX_BYTES) as service:
        assert (await service.put(in_pieces(json_of(MAX_BYTES + 1))))[0] == 413
        assert (await service.put(b"[" * 90_000))[1] == "invalid-request"

    assert service.bodies.buffered_bytes == 0


@pytest.mark.parametrize("limit", ["read_timeout_s", "grace_s"])
async def test_a_stalled_body_is_408(limit: str) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield json_of(500)
        await asyncio.Event().wait()

    async with serving(max_total_bytes=MAX_BYTES, **{limit: 0.2}) as service:
        assert await service.put(stalled()) == (408, "body-too-slow")

    assert service.bodies.buffered_bytes == 0


async def test_an_announced_body_takes_nothing_of_the_budget() -> None:
    async with serving(max_total_bytes=MAX_BYTES) as service:
        url = service.client.make_url("/")
        head = f"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BYTES}\r\n\r\n".encode()
        lines = [await asyncio.open_connection(url.host, url.port) for _ in range(8)]
        for _, writer in lines:
            writer.write(head + b'"' * 500)
        service.release.set()
        served = await service.put(json_of(MAX_BYTES), Content_Type="application/json")
        for _, writer in lines:
            writer.close()

    assert served == (200, "")


async def test_a_body_that_its_caller_aborts_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(max_total_bytes=MAX_BYTES) as service:
        url = service.client.make_url("/")
        for ending in ("Content-Length: 300\r\n\r\n[", "Transfer-Encoding: chunked\r\n\r\n9\r\n["):
            _, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\n" + ending.encode())
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.transport.abort()
        service.release.set()
        served = await service.put(json_of(10))

    assert served == (200, "")
    assert caplog.records == []


async def test_one_owner_holds_no_more_than_its_share_of_the_budget() -> None:
    async with serving(max_total_bytes=MAX_BYTES, max_share=0.5) as service:
        first = asyncio.create_task(service.put(json_of(40_000), Owner="a"))
        assert await service.received.get() == 40_000
        refused = await service.put(json_of(40_000), Owner="a")
        other = asyncio.create_task(service.put(json_of(40_000), Owner="b"))
        assert await service.received.get() == 40_000
        service.release.set()

        assert [await first, await other] == [(200, "")] * 2
    assert refused == (503, "overloaded")


async def test_a_compressed_body_is_415_before_it_is_read() -> None:
    async with serving() as service:
        packed = gzip.compress(json_of(10))

        assert await service.put(packed, Content_Encoding="gzip") == (415, "unsupported-media-type")


def test_one_owner_reserves_no_more_than_its_share() -> None:
    bodies = BodyReader(max_total_bytes=MAX_BYTES, max_share=0.5)
    bodies.reserve("crowd", 40_000)

    with pytest.raises(Overloaded):
        bodies.reserve("crowd", 40_000)
    bodies.reserve("other", 40_000)
    bodies.release("crowd", 40_000)
    bodies.reserve("crowd", 60_000)  # an owner without any other may exceed its share

    assert bodies.buffered_bytes == 100_000


def test_zero_is_no_limit() -> None:
    bodies = BodyReader()

    bodies.reserve("a", 10**12)
    bodies.reserve("a", 10**12)

    assert bodies.buffered_bytes == 2 * 10**12
