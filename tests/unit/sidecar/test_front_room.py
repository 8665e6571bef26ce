"""What the front door answers by itself counts for who has to make room, too."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast

import pytest

from kit.http.connection_limits import ConnectionLimiter
from sidecar.server.listening import connections
from sidecar.server.write_fast_path import MatchedRequest, WriteFastPath
from tests.unit.sidecar.fronting import Wire, app_of, door_of, get
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, world

KNOWN = get("/v1/executions/7/uris")


class HeldCalls:
    """Knows every request that writes, and answers none before it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    def begin(self, data: bytes) -> MatchedRequest | None:
        return cast("MatchedRequest", data) if data.startswith(b"PATCH ") else None

    async def answer(self, begun: MatchedRequest) -> bytes:
        await self.let_go.wait()
        return b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"

    def keep(self, *answered: Any) -> None:
        """Has nothing to learn."""


def listening_for_two(
    here: World, calls: HeldCalls | None = None
) -> "AbstractAsyncContextManager[Any]":
    door = door_of(here)
    if calls is not None:
        door.calls = cast("WriteFastPath", calls)
    return connections(app_of(here), door, shutdown_timeout_s=2.0, counted=ConnectionLimiter(2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


async def test_a_line_answered_from_memory_is_the_last_to_make_room(folder: Path) -> None:
    async with world(folder) as here, listening_for_two(here) as connect:
        here.central.add(7)
        here.central.readers.add(("a", WORKFLOW))
        used, quiet = Wire(connect()), Wire(connect())
        for _ in range(4):
            await used.send(KNOWN)

        newcomer = Wire(connect())

        assert [wire.is_closing() for wire in (used, quiet, newcomer)] == [False, True, False]


async def test_a_line_with_a_write_under_way_makes_no_room(folder: Path) -> None:
    calls = HeldCalls()
    async with world(folder) as here, listening_for_two(here, calls) as connect:
        writing, quiet = Wire(connect()), Wire(connect())
        await writing.send(b"PATCH / HTTP/1.1\r\n\r\n")

        newcomers = [Wire(connect()), Wire(connect())]
        calls.let_go.set()
        await writing.send(b"")

        closing = [wire.is_closing() for wire in (writing, quiet, *newcomers)]
        assert closing == [False, True, True, False]
        assert [reply.status for reply in writing.replies()] == [202]
