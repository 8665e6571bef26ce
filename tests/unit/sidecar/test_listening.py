"""The local API on its address and its unix socket, with the front door and without."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.server.listening import listening
from tests.databases import free_port
from tests.unit.sidecar.delivery_fixtures import until
from tests.unit.sidecar.front_writes import EID, create_binding, named, patch
from tests.unit.sidecar.fronting import Line, app_of, door_of, get
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, world

URIS = "/v1/executions/7/uris"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as here:
        await create_binding(here)
        yield here


@pytest.mark.parametrize("response_cache", [True, False])
async def test_both_listeners_serve_and_end_with_the_block(
    tmp_path: Path, response_cache: bool
) -> None:
    socket, port = tmp_path / "api.sock", free_port()
    socket.touch()  # a killed predecessor's
    async with world(tmp_path / "spool") as here:
        here.central.add(7)
        here.central.readers.add(("a", WORKFLOW))
        app, door = app_of(here), door_of(here) if response_cache else None
        async with listening(app, door, ("127.0.0.1", port), socket, shutdown_timeout_s=2.0):
            tcp = Line(*await asyncio.open_connection("127.0.0.1", port))
            unix = Line(*await asyncio.open_unix_connection(socket))
            idle = Line(*await asyncio.open_connection("127.0.0.1", port))
            for line in (tcp, unix, tcp, unix):
                assert (await line.ask(get(URIS))).status == 200

        for line in (tcp, unix, idle):
            assert await line.reply() is None, "the connection was left open"
            line.writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_write_under_way_is_answered_before_the_listener_ends(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, begun, append = free_port(), asyncio.Event(), here.spool.append

    async def slowly(new: Any) -> int:
        begun.set()
        await asyncio.sleep(0.05)
        return await append(new)

    async with listening(
        app_of(here), door_of(here), ("127.0.0.1", port), None, shutdown_timeout_s=30.0
    ):
        line = Line(*await asyncio.open_connection("127.0.0.1", port))
        await line.ask(patch(named("known")))
        monkeypatch.setattr(here.spool, "append", slowly)
        await line.send(patch(named("last")))
        await begun.wait()

    reply = await line.reply()
    assert reply is not None, "the connection was closed without an answer"
    assert reply.status == 202
    assert await line.reply() is None
    line.writer.close()


async def test_a_write_that_comes_as_the_listener_ends_is_answered_too(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    door, port, append = door_of(here), free_port(), here.spool.append
    begun: list[Any] = []
    may_append = [asyncio.Event(), asyncio.Event()]

    async def in_turn(new: Any) -> int:
        begun.append(new)
        await may_append[len(begun) - 1].wait()
        return await append(new)

    async def come_late(line: Line) -> None:
        await until(lambda: door.is_closing)
        await line.send(patch(named("late")))
        await until(lambda: len(begun) == 2)
        may_append[0].set()
        await until(lambda: here.spool.queues.length(EID) == 3)
        may_append[1].set()

    async with listening(app_of(here), door, ("127.0.0.1", port), None, shutdown_timeout_s=30.0):
        lines = [Line(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(2)]
        for line in lines:
            await line.ask(patch(named("known")))
        monkeypatch.setattr(here.spool, "append", in_turn)
        await lines[0].send(patch(named("early")))
        await until(lambda: len(begun) == 1)
        coming = asyncio.create_task(come_late(lines[1]))

    replies = [await line.reply() for line in lines]
    assert [reply and reply.status for reply in replies] == [202, 202]
    await coming
    for line in lines:
        line.writer.close()
