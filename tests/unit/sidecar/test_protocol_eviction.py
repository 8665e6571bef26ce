"""Requests served by the fast paths count for the eviction of connections."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

import pytest

from kit.http.connection_limits import ConnectionLimiter
from sidecar.server.protocol import running_server
from sidecar.server.write_fast_path import MatchedRequest, WriteFastPath
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, open_world
from tests.unit.sidecar.server_fixtures import MemoryTransport, app_of, factory_of, get

KNOWN = get("/v1/executions/7/uris")


class HeldWrites:
    """Matches every PATCH, and responds once `release` is set."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    def match(self, data: bytes) -> MatchedRequest | None:
        return cast("MatchedRequest", data) if data.startswith(b"PATCH ") else None

    async def respond(self, matched: MatchedRequest, data: bytes) -> bytes:
        await self.release.wait()
        return b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"

    def store(self, *stored: Any) -> None:
        """Stores nothing."""


def server_for_two(
    world: World, calls: HeldWrites | None = None
) -> "AbstractAsyncContextManager[Any]":
    factory = factory_of(world)
    if calls is not None:
        factory.write_fast_path = cast("WriteFastPath", calls)
    return running_server(
        app_of(world), factory, shutdown_timeout_s=2.0, limiter=ConnectionLimiter(2)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


async def test_a_connection_served_from_the_cache_is_evicted_last(folder: Path) -> None:
    async with open_world(folder) as world, server_for_two(world) as connect:
        world.central.add(7)
        world.central.readers.add(("a", WORKFLOW))
        used, quiet = MemoryTransport(connect()), MemoryTransport(connect())
        for _ in range(4):
            await used.send(KNOWN)

        newcomer = MemoryTransport(connect())

        assert [transport.is_closing() for transport in (used, quiet, newcomer)] == [
            False,
            True,
            False,
        ]


async def test_a_connection_with_a_replayed_write_is_not_evicted(folder: Path) -> None:
    calls = HeldWrites()
    async with open_world(folder) as world, server_for_two(world, calls) as connect:
        writing, quiet = MemoryTransport(connect()), MemoryTransport(connect())
        await writing.send(b"PATCH / HTTP/1.1\r\n\r\n")

        newcomers = [MemoryTransport(connect()), MemoryTransport(connect())]
        calls.release.set()
        await writing.send(b"")

        closing = [transport.is_closing() for transport in (writing, quiet, *newcomers)]
        assert closing == [False, True, True, False]
        assert [reply.status for reply in writing.replies()] == [202]
