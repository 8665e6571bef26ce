"""HTTP details: whatever is sent, the server answers as aiohttp alone does.

`warm` fills the response cache, so that each case meets a server with something to serve; cases
are sent whole, cut in two at every byte, and byte by byte.
"""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sidecar.server.protocol import (
    HEAD_TIMEOUT_S,
    KEEPALIVE_TIMEOUT_S,
    TICK_PERIOD_S,
    Connection,
    running_server,
)
from tests.unit.sidecar.http_cases import BODY, CASES, EID, KNOWN, URIS, patch
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, open_world
from tests.unit.sidecar.server_fixtures import MemoryTransport, app_of, factory_of, get

Factory = Callable[[], asyncio.BaseProtocol]


@dataclass
class Pair:
    """One world behind the server and behind aiohttp alone."""

    world: World
    fast: Factory
    plain: Factory
    to_aiohttp: list[str]

    def connect(self, factory: Factory) -> MemoryTransport:
        return MemoryTransport(cast("asyncio.Protocol", factory()))

    async def warm(self) -> None:
        """Both have the value cached, and the server has the response."""
        for factory in (self.fast, self.plain):
            transport = self.connect(factory)
            for request in (get(URIS, token="b"), KNOWN, KNOWN, KNOWN):
                await transport.send(request)
            transport.close()

    async def exchange(self, factory: Factory, chunks: Sequence[bytes]) -> tuple[Any, bool]:
        transport = self.connect(factory)
        for chunk in chunks:
            await transport.send(chunk)
        is_closed = transport.is_closing()
        transport.close()
        return [reply.comparable() for reply in transport.replies()], is_closed

    async def differences(self, chunks: Sequence[bytes]) -> list[str]:
        mine, theirs = (
            await self.exchange(self.fast, chunks),
            await self.exchange(self.plain, chunks),
        )
        return [] if mine == theirs else [f"{chunks!r}: {mine} instead of {theirs}"]


@asynccontextmanager
async def warm_pair(folder: Path) -> AsyncIterator[Pair]:
    async with open_world(folder) as world:
        world.central.add(EID)
        world.central.readers |= {("a", WORKFLOW), ("b", WORKFLOW)}
        seen: list[str] = []

        @web.middleware
        async def see(request: web.Request, handler: Any) -> web.StreamResponse:
            seen.append(request.path)
            response: web.StreamResponse = await handler(request)
            return response

        app = app_of(world)
        app.middlewares.insert(0, see)
        async with (
            running_server(app, factory_of(world), shutdown_timeout_s=2.0) as fast,
            running_server(app_of(world), None, shutdown_timeout_s=2.0) as plain,
        ):
            pair = Pair(world, fast, plain, seen)
            await pair.warm()
            yield pair


@pytest.fixture(autouse=True)
def _quietly(caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp logs each malformed request with its traceback."""
    caplog.set_level(logging.CRITICAL, "aiohttp.server")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with warm_pair(tmp_path) as pair:
        yield pair


@pytest.mark.parametrize("time", ["once", "again"])
async def test_every_case_is_answered_as_by_aiohttp_alone(pair: Pair, time: str) -> None:
    if time == "again":  # whatever the server has stored by now must have been storable
        for case in CASES.values():
            await pair.differences([case])
            await pair.differences([case])

    differences = {
        name: [
            *await pair.differences([case]),
            *await pair.differences([case, KNOWN]),
            *await pair.differences([KNOWN, case, KNOWN]),
        ]
        for name, case in CASES.items()
    }

    assert {name: found for name, found in differences.items() if found} == {}


@pytest.mark.parametrize("name", ["known", "a body, then known", "known, unknown, known"])
async def test_a_request_cut_in_two_anywhere_is_answered_as_by_aiohttp(
    pair: Pair, name: str
) -> None:
    whole = CASES[name]

    for cut in range(1, len(whole)):
        assert await pair.differences([whole[:cut], whole[cut:]]) == []


async def test_a_request_sent_byte_by_byte_is_answered_as_by_aiohttp(pair: Pair) -> None:
    for name in ("known", "a chunked body, then known", "trailing garbage", "HTTP/1.0"):
        assert await pair.differences([bytes([byte]) for byte in CASES[name]]) == []


BEGUN = patch(f"Content-Length: {len(KNOWN)}", body=b"")


@pytest.mark.parametrize("first", [get("/nowhere"), KNOWN, patch(f"Content-Length: {len(BODY)}")])
@pytest.mark.parametrize(
    "begun",
    [
        BEGUN,
        BEGUN.replace(b"Authorization", b"Unrelated"),  # answered before its body arrives
        patch(f"Content-Length: {len(KNOWN):020}", body=b"").replace(
            b"Authorization", b"Unrelated"
        ),
    ],
    ids=["answered late", "answered early", "answered early, an odd length"],
)
async def test_a_body_that_looks_like_a_cached_request_is_a_body(
    pair: Pair, first: bytes, begun: bytes
) -> None:
    assert await pair.differences([first + begun, KNOWN, KNOWN]) == []
    assert await pair.differences([first, begun, KNOWN, KNOWN]) == []


async def test_a_connection_is_idle_again_after_a_delegated_request(pair: Pair) -> None:
    transport = pair.connect(pair.fast)
    for unknown in (
        patch(f"Content-Length: {len(BODY)}"),
        get("/nowhere"),
        patch("X: y", body=b""),
    ):
        await transport.send(unknown)
        before = len(pair.to_aiohttp)
        await transport.send(KNOWN)
        assert len(pair.to_aiohttp) == before

    assert [reply.status for reply in transport.replies()] == [404, 200, 404, 200, 400, 200]


async def test_a_cached_request_behind_a_slow_one_is_served_in_order(pair: Pair) -> None:
    pair.world.central.may_respond.clear()
    transport = pair.connect(pair.fast)

    await transport.send(get("/v1/executions/8/uris"))
    await transport.send(KNOWN)
    assert transport.replies() == []
    pair.world.central.may_respond.set()
    await transport.send(b"")

    assert [reply.status for reply in transport.replies()] == [404, 200]


async def test_reading_pauses_while_the_client_does_not_read(pair: Pair) -> None:
    transport = pair.connect(pair.fast)
    await transport.send(KNOWN)

    transport.protocol.pause_writing()
    assert transport.is_paused
    transport.protocol.resume_writing()

    assert not transport.is_paused


async def test_slow_heads_and_idle_connections_time_out(pair: Pair) -> None:
    slow, idle, waiting = (pair.connect(pair.fast) for _ in range(3))
    pair.world.central.may_respond.clear()
    await waiting.send(get("/v1/executions/8/uris"))
    connections = [cast("Connection", transport.protocol) for transport in (slow, idle, waiting)]

    def tick_for(seconds: float) -> None:
        for _ in range(int(seconds / TICK_PERIOD_S)):
            for connection in connections:
                connection.on_tick()

    await slow.send(KNOWN[:10])
    tick_for(HEAD_TIMEOUT_S)
    await slow.send(KNOWN[10:11])
    assert not slow.is_closing()
    tick_for(TICK_PERIOD_S)
    assert [transport.is_closing() for transport in (slow, idle, waiting)] == [
        True,
        False,
        False,
    ]

    tick_for(KEEPALIVE_TIMEOUT_S)
    assert idle.is_closing()


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=set(Phase) - {Phase.shrink},  # a failure names its bytes, and they are few
)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(sorted(CASES)), min_size=1, max_size=4),
            st.lists(st.floats(0, 1), max_size=6),
        ),
        min_size=10,
        max_size=10,
    )
)
def test_any_pipeline_cut_anywhere_is_answered_as_by_aiohttp(
    mixtures: list[tuple[list[str], list[float]]],
) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with warm_pair(Path(folder)) as pair:
                for names, cuts in mixtures:
                    whole = b"".join(CASES[name] for name in names)
                    places = {0, len(whole), *(int(cut * len(whole)) for cut in cuts)}
                    chunks = [whole[a:b] for a, b in pairwise(sorted(places))]
                    assert await pair.differences(chunks) == []

    asyncio.run(play())
