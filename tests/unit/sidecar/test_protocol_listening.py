"""The local API on its address and its unix socket, with the fast paths and without."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.server.protocol import listening
from sidecar.settings import UnixSocket
from tests.databases import free_port
from tests.unit.sidecar.delivery_fixtures import until
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, open_world
from tests.unit.sidecar.server_fixtures import HttpClient, app_of, factory_of, get
from tests.unit.sidecar.write_requests import EID, create_binding, named, patch

URIS = "/v1/executions/7/uris"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        await create_binding(world)
        yield world


@pytest.mark.parametrize("response_cache", [True, False])
async def test_both_listeners_serve_until_the_block_ends(
    tmp_path: Path, response_cache: bool
) -> None:
    socket, port = tmp_path / "api.sock", free_port()
    socket.touch()  # a killed predecessor's
    async with open_world(tmp_path / "spool") as world:
        world.central.add(7)
        world.central.readers.add(("a", WORKFLOW))
        app, factory = app_of(world), factory_of(world) if response_cache else None
        at = ("127.0.0.1", port), UnixSocket(socket, 0o600, None, frozenset())
        async with listening(app, factory, *at, shutdown_timeout_s=2.0):
            tcp = HttpClient(*await asyncio.open_connection("127.0.0.1", port))
            unix = HttpClient(*await asyncio.open_unix_connection(socket))
            idle = HttpClient(*await asyncio.open_connection("127.0.0.1", port))
            for client in (tcp, unix, tcp, unix):
                assert (await client.request(get(URIS))).status == 200

        for client in (tcp, unix, idle):
            assert await client.reply() is None, "the connection was left open"
            client.writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_a_write_in_progress_is_answered_before_the_listener_closes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, begun, append = free_port(), asyncio.Event(), world.spool.append

    async def slowly(new: Any) -> int:
        begun.set()
        await asyncio.sleep(0.05)
        return await append(new)

    async with listening(
        app_of(world), factory_of(world), ("127.0.0.1", port), None, shutdown_timeout_s=30.0
    ):
        client = HttpClient(*await asyncio.open_connection("127.0.0.1", port))
        await client.request(patch(named("known")))
        monkeypatch.setattr(world.spool, "append", slowly)
        await client.send(patch(named("last")))
        await begun.wait()

    reply = await client.reply()
    assert reply is not None, "the connection was closed without an answer"
    assert reply.status == 202
    assert await client.reply() is None
    client.writer.close()


async def test_a_write_received_while_the_listener_closes_is_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory, port, append = factory_of(world), free_port(), world.spool.append
    begun: list[Any] = []
    may_append = [asyncio.Event(), asyncio.Event()]

    async def in_turn(new: Any) -> int:
        begun.append(new)
        await may_append[len(begun) - 1].wait()
        return await append(new)

    async def come_late(client: HttpClient) -> None:
        await until(lambda: factory.is_closing)
        await client.send(patch(named("late")))
        await until(lambda: len(begun) == 2)
        may_append[0].set()
        await until(lambda: world.spool.queues.length(EID) == 3)
        may_append[1].set()

    async with listening(
        app_of(world), factory, ("127.0.0.1", port), None, shutdown_timeout_s=30.0
    ):
        clients = [HttpClient(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(2)]
        for client in clients:
            await client.request(patch(named("known")))
        monkeypatch.setattr(world.spool, "append", in_turn)
        await clients[0].send(patch(named("early")))
        await until(lambda: len(begun) == 1)
        coming = asyncio.create_task(come_late(clients[1]))

    replies = [await client.reply() for client in clients]
    assert [reply and reply.status for reply in replies] == [202, 202]
    await coming
    for client in clients:
        client.writer.close()
