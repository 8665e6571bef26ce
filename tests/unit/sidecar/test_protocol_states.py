"""Replayed writes in progress: order and limit; unstorable writes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.server.protocol import running_server
from sidecar.settings import LimitSettings
from tests.unit.sidecar.delivery_fixtures import until
from tests.unit.sidecar.read_fixtures import World, open_world
from tests.unit.sidecar.server_fixtures import MemoryTransport, app_of, factory_of, get
from tests.unit.sidecar.write_requests import EID, OTHER_EID, create_binding, named, patch

URIS = f"/v1/executions/{OTHER_EID}/uris"
KNOWN_LINES = 3


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        await create_binding(world)
        yield world


@pytest.fixture
def held(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], asyncio.Event]:
    """Once called, writes wait for the event that it returns."""
    append = world.spool.append

    def hold() -> asyncio.Event:
        release = asyncio.Event()

        async def wait(new: Any) -> int:
            await release.wait()
            return await append(new)

        monkeypatch.setattr(world.spool, "append", wait)
        return release

    return hold


async def known(transport: MemoryTransport, *requests: bytes) -> None:
    """Sends each until its head is stored, and discards the responses."""
    for request in requests:
        for _ in range(KNOWN_LINES):
            before = len(transport.replies())
            await transport.send(request)
            await until(lambda count=before: len(transport.replies()) > count)  # type: ignore[misc]
    transport.written.clear()


async def test_no_request_overtakes_a_replayed_write(
    world: World, held: Callable[[], asyncio.Event]
) -> None:
    async with running_server(
        app_of(world), factory_of(world), shutdown_timeout_s=2.0
    ) as make_protocol:
        transport = MemoryTransport(make_protocol())  # type: ignore[arg-type]
        await known(transport, get(URIS), patch(named("known")))
        release = held()

        for request in (patch(named("one")), get(URIS), patch(named("two")), get("/nowhere")):
            await transport.send(request)
        assert not transport.written, "the write is under way"
        release.set()
        await until(lambda: len(transport.replies()) == 4)

    assert [reply.status for reply in transport.replies()] == [202, 200, 202, 404]
    entries = await world.spool.waiting(EID)
    names = [msgspec.json.decode(entry.payload)["name"] for entry in entries]
    assert names[-2:] == ["one", "two"]


@pytest.mark.parametrize("response_cache", [True, False])
async def test_replayed_writes_count_as_concurrent_calls(
    world: World, held: Callable[[], asyncio.Event], response_cache: bool
) -> None:
    app = app_of(world, limits=LimitSettings(concurrent_calls=2))
    factory = factory_of(world) if response_cache else None
    async with running_server(app, factory, shutdown_timeout_s=2.0) as make_protocol:
        transports = [MemoryTransport(make_protocol()) for _ in range(3)]  # type: ignore[arg-type]
        await known(transports[0], patch(named("known")))
        release = held()

        for transport in transports:
            await transport.send(patch(named("n")))
        assert [reply.status for transport in transports for reply in transport.replies()] == [429]
        release.set()
        await until(lambda: all(transport.replies() for transport in transports))

    assert [transport.replies()[0].status for transport in transports] == [202, 202, 429]
    labels = {"limit": "calls"}
    sample = world.metrics.registry.get_sample_value
    assert sample("sidecar_rate_limited_calls_total", labels) == 1


@pytest.mark.parametrize(
    "odd",
    [
        patch(named("n"), "Connection: close"),
        patch(named("n")).replace(b"HTTP/1.1", b"HTTP/1.0"),
        patch(named("n"), "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0"),
        patch(named("n"), "Expect: 100-continue"),
    ],
    ids=["close", "HTTP/1.0", "HTTP/1.0 kept", "Expect"],
)
async def test_an_unstorable_write_gets_the_same_response_each_time(
    world: World, odd: bytes
) -> None:
    async with running_server(
        app_of(world), factory_of(world), shutdown_timeout_s=2.0
    ) as make_protocol:
        observed = []
        for _ in range(KNOWN_LINES):
            transport = MemoryTransport(make_protocol())  # type: ignore[arg-type]
            await transport.send(odd)
            await until(lambda transport=transport: b'"write_id"' in transport.written)  # type: ignore[misc]
            await transport.send(b"")
            status_line, _, rest = bytes(transport.written).partition(b"\r\n")
            observed.append((status_line, b"Connection" in rest, transport.is_closing()))
            transport.close()

    assert observed == [observed[0]] * KNOWN_LINES
