"""Answers that are given before the whole request has come, with the front door and without."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kit.http.body_reader import BodyReader
from kit.http.connection_limits import HEAD_MAX_BYTES, ConnectionLimiter
from sidecar.server.listening import connections
from tests.unit.sidecar.front_writes import EID, create_binding, named, patch
from tests.unit.sidecar.fronting import (
    CONNECTIONS,
    MIB,
    Line,
    Served,
    Wire,
    app_of,
    door_of,
    get,
    served,
)
from tests.unit.sidecar.read_fixtures import World, world

ROW = f"/v1/executions/{EID}"
PIECE_BYTES = 256 * 1024
TOO_LARGE = named("n") + b" " * (3 * MIB)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as here:
        await create_binding(here)
        yield here


@pytest.fixture(params=[True, False], ids=["front door", "aiohttp alone"])
async def listener(here: World, request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with served(here, response_cache=request.param) as listener:
        yield listener


async def answered_early(line: Line, request: bytes) -> int:
    sending = asyncio.create_task(line.send(request))
    reply = await line.reply()
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
async def test_the_rest_of_a_body_is_taken_for_no_head(
    listener: Served, request_: bytes, status: int
) -> None:
    line = await listener.line()

    assert await answered_early(line, request_) == status

    assert (await line.ask(get(ROW))).status == 200


@pytest.mark.parametrize("response_cache", [True, False])
async def test_the_head_behind_it_is_bounded_all_the_same(
    here: World, response_cache: bool
) -> None:
    counted = ConnectionLimiter(CONNECTIONS)
    app, door = app_of(here, BodyReader(counted)), door_of(here) if response_cache else None
    async with connections(app, door, shutdown_timeout_s=2.0, counted=counted) as connection:
        wire = Wire(connection())  # type: ignore[arg-type]
        early = patch(TOO_LARGE)
        for start in range(0, len(early), PIECE_BYTES):
            await wire.send(early[start : start + PIECE_BYTES])
        assert [reply.status for reply in wire.replies()] == [413]

        await wire.send(get(ROW)[:-2])
        assert not wire.is_closing()
        line = b"X-Filler: " + b"a" * 1000 + b"\r\n"  # one that aiohttp takes
        await wire.send(line * (HEAD_MAX_BYTES // len(line) + 1))

        assert wire.is_closing()
