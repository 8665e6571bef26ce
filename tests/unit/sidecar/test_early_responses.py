"""Responses sent before the whole request has arrived, with the fast paths and without."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kit.http.body_reader import BodyReader
from kit.http.connection_limits import HEAD_MAX_BYTES, ConnectionLimiter
from sidecar.server.protocol import running_server
from tests.unit.sidecar.read_fixtures import World, open_world
from tests.unit.sidecar.server_fixtures import (
    CONNECTIONS,
    MIB,
    HttpClient,
    MemoryTransport,
    Served,
    app_of,
    factory_of,
    get,
    served,
)
from tests.unit.sidecar.write_requests import EID, create_binding, named, patch

ROW = f"/v1/executions/{EID}"
PIECE_BYTES = 256 * 1024
TOO_LARGE = named("n") + b" " * (3 * MIB)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        await create_binding(world)
        yield world


@pytest.fixture(params=[True, False], ids=["fast paths", "aiohttp alone"])
async def listener(world: World, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with served(world, response_cache=request.param) as listener:
        yield listener


async def status_of_early_response(client: HttpClient, request: bytes) -> int:
    sending = asyncio.create_task(client.send(request))
    reply = await client.reply()
    async with asyncio.timeout(30):
        await sending
    assert reply is not None
    return reply.status


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (patch(TOO_LARGE), 413),
        (patch(TOO_LARGE).replace(b"Authorization", b"Unrelated"), 401),
    ],
    ids=["too large", "no token"],
)
async def test_the_rest_of_a_body_after_an_early_response_is_no_head(
    listener: Served, request_: bytes, status: int
) -> None:
    client = await listener.connect()

    assert await status_of_early_response(client, request_) == status

    assert (await client.request(get(ROW))).status == 200


@pytest.mark.parametrize("response_cache", [True, False])
async def test_a_head_after_an_early_response_is_bounded(
    world: World, response_cache: bool
) -> None:
    limiter = ConnectionLimiter(CONNECTIONS)
    app, factory = app_of(world, BodyReader(limiter)), factory_of(world) if response_cache else None
    async with running_server(
        app, factory, shutdown_timeout_s=2.0, limiter=limiter
    ) as make_protocol:
        transport = MemoryTransport(make_protocol())  # type: ignore[arg-type]
        early = patch(TOO_LARGE)
        for start in range(0, len(early), PIECE_BYTES):
            await transport.send(early[start : start + PIECE_BYTES])
        assert [reply.status for reply in transport.replies()] == [413]

        await transport.send(get(ROW)[:-2])
        line = b"X-Filler: " + b"a" * 1000 + b"\r\n"  # one that aiohttp takes
        await transport.send(line * (HEAD_MAX_BYTES // len(line) + 1))

        assert [reply.status for reply in transport.replies()] == [413, 431]
