"""Known writes that are under way: their turn and their limit; odd ones, which are never known."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.server.listening import connections
from sidecar.settings import LimitSettings
from tests.unit.sidecar.delivery_fixtures import until
from tests.unit.sidecar.front_writes import EID, OTHER_EID, create_binding, named, patch
from tests.unit.sidecar.fronting import Wire, app_of, door_of, get
from tests.unit.sidecar.read_fixtures import World, world

URIS = f"/v1/executions/{OTHER_EID}/uris"
KNOWN_LINES = 3


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as here:
        await create_binding(here)
        yield here


@pytest.fixture
def held(here: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], asyncio.Event]:
    """From its call on writes wait for the event that it answers."""
    append = here.spool.append

    def hold() -> asyncio.Event:
        let_go = asyncio.Event()

        async def wait(new: Any) -> int:
            await let_go.wait()
            return await append(new)

        monkeypatch.setattr(here.spool, "append", wait)
        return let_go

    return hold


async def known(wire: Wire, *requests: bytes) -> None:
    """Sends each until the door knows it, and forgets the answers."""
    for request in requests:
        for _ in range(KNOWN_LINES):
            before = len(wire.replies())
            await wire.send(request)
            await until(lambda count=before: len(wire.replies()) > count)  # type: ignore[misc]
    wire.written.clear()


async def test_nothing_overtakes_a_write_on_its_connection(
    here: World, held: Callable[[], asyncio.Event]
) -> None:
    async with connections(app_of(here), door_of(here), shutdown_timeout_s=2.0) as connection:
        wire = Wire(connection())  # type: ignore[arg-type]
        await known(wire, get(URIS), patch(named("known")))
        let_go = held()

        for request in (patch(named("one")), get(URIS), patch(named("two")), get("/nowhere")):
            await wire.send(request)
        assert not wire.written, "the write is under way"
        let_go.set()
        await until(lambda: len(wire.replies()) == 4)

    assert [reply.status for reply in wire.replies()] == [202, 200, 202, 404]
    entries = await here.spool.waiting(EID)
    names = [msgspec.json.decode(entry.payload)["name"] for entry in entries]
    assert names[-2:] == ["one", "two"]


@pytest.mark.parametrize("response_cache", [True, False])
async def test_of_a_users_writes_no_more_are_under_way_than_may_be(
    here: World, held: Callable[[], asyncio.Event], response_cache: bool
) -> None:
    app = app_of(here, limits=LimitSettings(concurrent_calls=2))
    door = door_of(here) if response_cache else None
    async with connections(app, door, shutdown_timeout_s=2.0) as connection:
        wires = [Wire(connection()) for _ in range(3)]  # type: ignore[arg-type]
        await known(wires[0], patch(named("known")))
        let_go = held()

        for wire in wires:
            await wire.send(patch(named("n")))
        assert [reply.status for wire in wires for reply in wire.replies()] == [429]
        let_go.set()
        await until(lambda: all(wire.replies() for wire in wires))

    assert [wire.replies()[0].status for wire in wires] == [202, 202, 429]
    labels = {"limit": "calls"}
    sample = here.metrics.registry.get_sample_value
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
async def test_an_odd_write_is_answered_the_same_each_time(here: World, odd: bytes) -> None:
    async with connections(app_of(here), door_of(here), shutdown_timeout_s=2.0) as connection:
        told = []
        for _ in range(KNOWN_LINES):
            wire = Wire(connection())  # type: ignore[arg-type]
            await wire.send(odd)
            await until(lambda wire=wire: b'"write_id"' in wire.written)  # type: ignore[misc]
            await wire.send(b"")
            status_line, _, rest = bytes(wire.written).partition(b"\r\n")
            told.append((status_line, b"Connection" in rest, wire.is_closing()))
            wire.close()

    assert told == [told[0]] * KNOWN_LINES
