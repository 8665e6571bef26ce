"""Details of HTTP: whatever is sent, the front door's side answers as aiohttp alone does.

The first three requests of `WARM` make the answer known, so that each case below meets the
door with something to give; cases are sent whole, cut in two at every byte, and byte by byte.
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

from sidecar.server.listening import connections
from sidecar.server.protocol import (
    HEAD_TIMEOUT_S,
    KEEPALIVE_TIMEOUT_S,
    SWEEP_PERIOD_S,
    Connection,
)
from tests.unit.sidecar.front_cases import BODY, CASES, EID, KNOWN, URIS, patch
from tests.unit.sidecar.fronting import Wire, app_of, door_of, get
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, world

Factory = Callable[[], asyncio.BaseProtocol]


@dataclass
class Pair:
    """One world behind the door and behind aiohttp alone."""

    world: World
    door: Factory
    plain: Factory
    to_aiohttp: list[str]

    def connect(self, factory: Factory) -> Wire:
        return Wire(cast("asyncio.Protocol", factory()))

    async def warm(self) -> None:
        """Both have the answer in memory, and the door has it whole."""
        for factory in (self.door, self.plain):
            wire = self.connect(factory)
            for request in (get(URIS, token="b"), KNOWN, KNOWN, KNOWN):
                await wire.send(request)
            wire.close()

    async def told(self, factory: Factory, chunks: Sequence[bytes]) -> tuple[Any, bool]:
        wire = self.connect(factory)
        for chunk in chunks:
            await wire.send(chunk)
        is_closed = wire.is_closing()
        wire.close()
        return [reply.comparable() for reply in wire.replies()], is_closed

    async def differences(self, chunks: Sequence[bytes]) -> list[str]:
        mine, theirs = await self.told(self.door, chunks), await self.told(self.plain, chunks)
        return [] if mine == theirs else [f"{chunks!r}: {mine} instead of {theirs}"]


@asynccontextmanager
async def warm_pair(folder: Path) -> AsyncIterator[Pair]:
    async with world(folder) as here:
        here.central.add(EID)
        here.central.readers |= {("a", WORKFLOW), ("b", WORKFLOW)}
        seen: list[str] = []

        @web.middleware
        async def see(request: web.Request, handler: Any) -> web.StreamResponse:
            seen.append(request.path)
            response: web.StreamResponse = await handler(request)
            return response

        app = app_of(here)
        app.middlewares.insert(0, see)
        async with (
            connections(app, door_of(here), shutdown_timeout_s=2.0) as door,
            connections(app_of(here), None, shutdown_timeout_s=2.0) as plain,
        ):
            pair = Pair(here, door, plain, seen)
            await pair.warm()
            yield pair


@pytest.fixture(autouse=True)
def _quietly(caplog: pytest.LogCaptureFixture) -> None:
    """aiohttp tells each malformed request with its traceback."""
    caplog.set_level(logging.CRITICAL, "aiohttp.server")


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    async with warm_pair(tmp_path) as pair:
        yield pair


@pytest.mark.parametrize("time", ["once", "again"])
async def test_the_answers_are_aiohttps(pair: Pair, time: str) -> None:
    if time == "again":  # what the door might have kept by now, it must have been right to keep
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
async def test_a_request_may_come_in_two_pieces_cut_anywhere(pair: Pair, name: str) -> None:
    whole = CASES[name]

    for cut in range(1, len(whole)):
        assert await pair.differences([whole[:cut], whole[cut:]]) == []


async def test_a_request_may_come_byte_by_byte(pair: Pair) -> None:
    for name in ("known", "a chunked body, then known", "trailing garbage", "HTTP/1.0"):
        assert await pair.differences([bytes([byte]) for byte in CASES[name]]) == []


BEGUN = patch(f"Content-Length: {len(KNOWN)}", body=b"")


@pytest.mark.parametrize("first", [get("/nowhere"), KNOWN, patch(f"Content-Length: {len(BODY)}")])
@pytest.mark.parametrize(
    "begun",
    [
        BEGUN,
        BEGUN.replace(b"Authorization", b"Unrelated"),  # which is answered before its body comes
        patch(f"Content-Length: {len(KNOWN):020}", body=b"").replace(
            b"Authorization", b"Unrelated"
        ),
    ],
    ids=["answered late", "answered early", "answered early, an odd length"],
)
async def test_a_body_that_looks_like_a_known_request_is_a_body(
    pair: Pair, first: bytes, begun: bytes
) -> None:
    assert await pair.differences([first + begun, KNOWN, KNOWN]) == []
    assert await pair.differences([first, begun, KNOWN, KNOWN]) == []


async def test_the_turn_comes_back_after_requests_that_are_not_known(pair: Pair) -> None:
    wire = pair.connect(pair.door)
    for unknown in (
        patch(f"Content-Length: {len(BODY)}"),
        get("/nowhere"),
        patch("X: y", body=b""),
    ):
        await wire.send(unknown)
        before = len(pair.to_aiohttp)
        await wire.send(KNOWN)
        assert len(pair.to_aiohttp) == before

    assert [reply.status for reply in wire.replies()] == [404, 200, 404, 200, 400, 200]


async def test_a_known_request_behind_a_slow_one_waits_for_its_turn(pair: Pair) -> None:
    pair.world.central.may_answer.clear()
    wire = pair.connect(pair.door)

    await wire.send(get("/v1/executions/8/uris"))
    await wire.send(KNOWN)
    assert wire.replies() == []
    pair.world.central.may_answer.set()
    await wire.send(b"")

    assert [reply.status for reply in wire.replies()] == [404, 200]


async def test_answers_do_not_pile_up_for_a_caller_who_does_not_read(pair: Pair) -> None:
    wire = pair.connect(pair.door)
    await wire.send(KNOWN)

    wire.protocol.pause_writing()
    assert wire.is_paused
    wire.protocol.resume_writing()

    assert not wire.is_paused


async def test_whoever_dribbles_a_head_is_let_go_and_whoever_is_idle_later(pair: Pair) -> None:
    dribbling, idle, waiting = (pair.connect(pair.door) for _ in range(3))
    pair.world.central.may_answer.clear()
    await waiting.send(get("/v1/executions/8/uris"))
    connections = [cast("Connection", wire.protocol) for wire in (dribbling, idle, waiting)]

    def sweep_for(seconds: float) -> None:
        for _ in range(int(seconds / SWEEP_PERIOD_S)):
            for connection in connections:
                connection.swept()

    await dribbling.send(KNOWN[:10])
    sweep_for(HEAD_TIMEOUT_S)
    await dribbling.send(KNOWN[10:11])
    assert not dribbling.is_closing()
    sweep_for(SWEEP_PERIOD_S)
    assert [wire.is_closing() for wire in (dribbling, idle, waiting)] == [True, False, False]

    sweep_for(KEEPALIVE_TIMEOUT_S)
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
def test_any_mixture_cut_anywhere(mixtures: list[tuple[list[str], list[float]]]) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with warm_pair(Path(folder)) as pair:
                for names, cuts in mixtures:
                    whole = b"".join(CASES[name] for name in names)
                    places = {0, len(whole), *(int(cut * len(whole)) for cut in cuts)}
                    chunks = [whole[a:b] for a, b in pairwise(sorted(places))]
                    assert await pair.differences(chunks) == []

    asyncio.run(play())
