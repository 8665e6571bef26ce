"""The front door answers what the application would answer, and only while it would."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.server.listening import connections
from tests.unit.sidecar.delivery_fixtures import until
from tests.unit.sidecar.fronting import Line, Served, Wire, app_of, door_of, get, served
from tests.unit.sidecar.read_fixtures import (
    ACCESS_TTL_S,
    EXECUTION_CACHE_TTL_S,
    WORKFLOW,
    World,
    world,
)

EID, OTHER_EID = 7, 8
URIS, ROW = f"/v1/executions/{EID}/uris", f"/v1/executions/{EID}"
OWN_PORT = "(logicalOpId=own,layerName=main,portId=0,isInternal=false,isInput=false)"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as here:
        here.central.add(EID)
        here.central.readers |= {("a", WORKFLOW), ("b", WORKFLOW)}
        yield here


@pytest.fixture
async def door(here: World) -> AsyncIterator[Served]:
    async with served(here, response_cache=True) as listener:
        yield listener


async def test_a_known_request_does_not_reach_the_application(here: World, door: Served) -> None:
    line = await door.line()

    replies = [await line.ask(get(URIS)) for _ in range(10)]

    assert [reply.header("X-Cache") for reply in replies] == ["miss", *["hit"] * 9]
    assert door.to_aiohttp == 2, "the miss, and the hit whose answer was kept"
    assert {reply.body for reply in replies} == {replies[0].body}


async def test_an_answer_given_again_is_counted_and_named_like_any_other(
    here: World, door: Served
) -> None:
    line = await door.line()

    replies = [await line.ask(get(URIS)) for _ in range(10)]
    named = await line.ask(get(URIS, "X-Request-Id: mine.1"))
    badly_named = await line.ask(get(URIS, "X-Request-Id: not an id"))

    assert len({reply.header("X-Request-Id") for reply in replies}) == 10
    assert named.header("X-Request-Id") == "mine.1"
    assert badly_named.header("X-Request-Id") not in {None, "not an id"}
    labels = {"route": "/v1/executions/{execution_id}/uris", "method": "GET", "status": "200"}
    sample = here.metrics.registry.get_sample_value
    assert sample("sidecar_http_requests_total", labels) == 12
    assert here.count("uris", "hit") == 11


async def test_a_fresh_trace_context_on_every_request_neither_misses_nor_crowds_out(
    here: World, door: Served
) -> None:
    line = await door.line()
    for _ in range(2):
        await line.ask(get(URIS))
    assert door.door is not None
    size_bytes = door.door.answers.size_bytes

    for number in range(1, 100):
        trace = f"traceparent: 00-{number:032x}-{number:016x}-01"
        await line.ask(get(URIS, trace, "tracestate: a=b", f"X-Request-Id: {number}"))

    assert door.to_aiohttp == 2
    assert door.door.answers.size_bytes == size_bytes


async def test_kept_answers_are_bounded(here: World) -> None:
    async with served(here, response_cache=True, max_bytes=20_000) as door:
        line = await door.line()
        assert door.door is not None
        for number in range(100):
            for _ in range(2):
                await line.ask(get(f"{URIS}", f"Accept: {number}"))
            assert door.door.answers.size_bytes <= 20_000

        before = door.to_aiohttp
        await line.ask(get(URIS, "Accept: 99"))
        assert door.to_aiohttp == before


async def test_what_is_in_use_is_not_evicted_as_forgotten(tmp_path: Path) -> None:
    async with world(tmp_path, max_bytes=20_000) as here, served(here, response_cache=True) as door:
        here.central.readers.add(("a", WORKFLOW))
        for execution_id in range(1, 200):
            here.central.add(execution_id)
        line = await door.line()
        for number in range(2, 200):
            here.clock.now_s += 0.2
            await line.ask(get("/v1/executions/1/uris"))
            await line.ask(get(f"/v1/executions/{number}/uris"))

        asked = [target for target in here.central.calls if target == "/v1/executions/1/uris"]
        assert len(asked) == 1


async def test_a_write_is_seen_though_its_caller_left(here: World, door: Served) -> None:
    await here.bind(EID, created_here=False)
    line = await door.line()
    for _ in range(3):
        await line.ask(get(ROW))

    writing = asyncio.create_task(here.write(EID, "update_execution", name="renamed"))
    await asyncio.sleep(0)
    writing.cancel()
    await here.write(OTHER_EID, "update_execution", name="after it in the queue")

    assert b"renamed" in (await line.ask(get(ROW))).body


async def known(here: World, line: Line, target: str, token: str = "a") -> None:  # noqa: S107
    """Asked until the door knows it."""
    for _ in range(3):
        await line.ask(get(target, token=token))


async def test_an_answer_ends_with_the_term_of_its_value(here: World, door: Served) -> None:
    line = await door.line()
    await known(here, line, ROW)
    here.central.rows[EID].name = "renamed elsewhere"

    here.clock.now_s += EXECUTION_CACHE_TTL_S - 0.01
    assert b"renamed" not in (await line.ask(get(ROW))).body
    here.clock.now_s += 0.01
    assert b"renamed" in (await line.ask(get(ROW))).body


async def test_an_answer_ends_with_the_term_of_the_callers_yes(here: World, door: Served) -> None:
    line = await door.line()
    await known(here, line, URIS)
    here.clock.now_s += ACCESS_TTL_S - 1
    here.central.readers.clear()
    await known(here, line, URIS)

    here.clock.now_s += 1

    assert (await line.ask(get(URIS))).status == 404


async def test_an_answer_ends_with_the_token(here: World, door: Served) -> None:
    here.central.expires_at["a"] = int(here.clock.now_s) + 10
    line = await door.line()
    await known(here, line, URIS)
    here.clock.now_s += 9.9
    assert (await line.ask(get(URIS))).status == 200

    here.clock.now_s += 0.1

    assert (await line.ask(get(URIS))).status == 401


async def test_a_clock_that_was_set_back_ends_it_too(here: World, door: Served) -> None:
    line = await door.line()
    await known(here, line, URIS)
    here.central.readers.clear()

    here.clock.now_s -= 1

    assert (await line.ask(get(URIS))).status == 404


async def test_a_no_to_one_read_ends_every_answer_about_the_execution(
    here: World, door: Served
) -> None:
    line = await door.line()
    await known(here, line, URIS)
    await known(here, line, URIS, "b")
    here.central.readers.discard(("a", WORKFLOW))
    here.clock.now_s += EXECUTION_CACHE_TTL_S
    assert (await line.ask(get(ROW))).status == 404

    assert (await line.ask(get(URIS))).status == 404
    before = door.to_aiohttp
    assert (await line.ask(get(URIS, token="b"))).status == 200
    assert door.to_aiohttp == before, "the other's yes stands"


async def test_one_piece_of_requests_is_not_answered_with_more_than_a_caller_can_read(
    here: World,
) -> None:
    await here.bind(EID, created_here=False)
    await here.write(EID, "update_execution", result="r" * 20_000)
    await here.deliver()
    async with connections(app_of(here), door_of(here), shutdown_timeout_s=2.0) as connection:
        wire = Wire(connection())  # type: ignore[arg-type]
        for _ in range(3):
            await wire.send(get(ROW))
        wire.written.clear()

        wire.protocol.data_received(get(ROW) * 10)
        assert len(wire.written) > 10 * 20_000
        wire.written.clear()
        wire.protocol.data_received(get(ROW) * 100)
        assert not wire.written, "aiohttp sends them, one after the other"
        await until(lambda: wire.written.count(b"HTTP/1.1 200 OK") == 100)


async def test_an_evicted_value_is_not_given_again(tmp_path: Path) -> None:
    async with world(tmp_path, max_bytes=5_000) as here, served(here, response_cache=True) as door:
        here.central.readers.add(("a", WORKFLOW))
        for execution_id in range(1, 20):
            here.central.add(execution_id)
        line = await door.line()
        await known(here, line, "/v1/executions/1/uris")
        for number in range(2, 20):
            await line.ask(get(f"/v1/executions/{number}/uris"))

        before = door.to_aiohttp
        again = await line.ask(get("/v1/executions/1/uris"))

        assert door.to_aiohttp == before + 1
        assert again.header("X-Cache") == "miss"


async def test_a_settled_write_replaces_the_answer(here: World, door: Served) -> None:
    await here.bind(EID, created_here=False)
    line = await door.line()
    await known(here, line, URIS)
    await here.put_result(EID, OWN_PORT, "vfs:///a")
    await known(here, line, URIS)
    await here.deliver()

    replies = [await line.ask(get(URIS)) for _ in range(3)]

    assert all(b"vfs:///a" in reply.body for reply in replies)
    assert [reply.header("X-Cache") for reply in replies] == ["hit"] * 3
