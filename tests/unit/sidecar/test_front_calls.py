"""Writes whose heads are known go past aiohttp, and end as they would have through it."""

import gc
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kit.http.body_reader import UNCOUNTED_BODY_BYTES
from sidecar.problems import UpstreamProblem
from sidecar.server.listening import connections
from sidecar.server.protocol import MAX_BUFFERED_BYTES
from tests.unit.sidecar.delivery_fixtures import until
from tests.unit.sidecar.front_writes import EID, OTHER_EID, create_binding, named, patch
from tests.unit.sidecar.fronting import Served, Wire, app_of, door_of, get, served
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, world

ROW = f"/v1/executions/{EID}"
ROUTE = f"PATCH {ROW} ".encode()
DROP_IN_ROUTE = f"PUT /api/internal/execution-metadata/{EID}/runtime-stats-uri ".encode()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as here:
        await create_binding(here)
        yield here


@pytest.fixture
async def door(here: World) -> AsyncIterator[Served]:
    async with served(here, response_cache=True) as listener:
        yield listener


async def names_in(here: World) -> list[str]:
    waiting = await here.spool.waiting(EID)
    return [msgspec.json.decode(entry.payload)["name"] for entry in waiting]


async def test_a_write_of_a_known_head_does_not_reach_the_application(
    here: World, door: Served
) -> None:
    line = await door.line()

    replies = [await line.ask(patch(named("n" * number))) for number in range(1, 10)]

    assert {reply.status for reply in replies} == {202}
    assert door.to_aiohttp == 1
    assert await names_in(here) == ["n" * number for number in range(1, 10)]
    assert len({reply.body for reply in replies}) == 9, "each has an id of its own"
    assert len({reply.header("X-Request-Id") for reply in replies}) == 9
    labels = {"route": "/v1/executions/{execution_id}", "method": "PATCH", "status": "202"}
    assert here.metrics.registry.get_sample_value("sidecar_http_requests_total", labels) == 9


async def test_trace_and_request_id_may_be_new_each_time(here: World, door: Served) -> None:
    line = await door.line()
    await line.ask(patch(named("first")))

    for number in range(1, 20):
        trace = f"traceparent: 00-{number:032x}-{number:016x}-01"
        reply = await line.ask(patch(named("n"), trace, f"X-Request-Id: mine.{number}"))
        assert reply.header("X-Request-Id") == f"mine.{number}"

    assert door.to_aiohttp == 1


@pytest.mark.parametrize(
    "other",
    [
        patch(named("n")).replace(b"Bearer a", b"Bearer b"),
        patch(named("n"), execution_id=OTHER_EID),
        patch(named("n")).replace(b"PATCH", b"PUT"),
        patch(named("n"), "Origin: http://localhost"),
        patch(named("n"), "Content-Length: 12"),
        patch(named("n"), "Expect: 100-continue"),
        patch(named("n")).replace(b"localhost", b"example.org"),
        patch(named("n")).replace(b"application/json", b"text/plain"),
        patch(named("n")) + get(ROW),
        patch(named("n"))[:-1],
        patch(named("n") + b" " * UNCOUNTED_BODY_BYTES),
    ],
    ids=lambda data: data[:300],
)
async def test_what_differs_in_anything_but_the_body_is_the_applications(
    here: World, door: Served, other: bytes
) -> None:
    line = await door.line()
    await line.ask(patch(named("first")))
    assert door.door is not None

    assert door.door.calls.begin(patch(named("n"))) is not None
    assert door.door.calls.begin(other) is None


async def test_a_right_that_ended_is_not_used_again(here: World, door: Served) -> None:
    line = await door.line()
    for _ in range(2):
        await line.ask(patch(named("allowed")))
    here.spool.bindings.forget([EID])

    reply = await line.ask(patch(named("not any more"), "X-Request-Id: this-one"))

    assert reply.status == 404
    assert f"bind {EID} for this-one" in here.central.calls
    assert "not any more" not in await names_in(here)


async def test_what_comes_behind_a_write_waits_for_its_turn(here: World, door: Served) -> None:
    line = await door.line()
    for _ in range(3):
        await line.ask(get(ROW))
    await line.ask(patch(named("known")))

    await line.send(patch(named("one")))
    await line.send(get(ROW))
    await line.send(patch(named("two")) + get("/nowhere"))
    replies = [await line.reply() for _ in range(4)]

    assert [reply.status for reply in replies if reply is not None] == [202, 200, 202, 404]
    assert replies[1] is not None
    assert b'"one"' in replies[1].body, "a read behind a write sees it"
    assert await names_in(here) == ["known", "one", "two"]


async def test_who_sends_on_without_end_is_read_no_further(here: World) -> None:
    async with connections(app_of(here), door_of(here), shutdown_timeout_s=2.0) as connection:
        wire = Wire(connection())  # type: ignore[arg-type]

        async def answered(count: int) -> None:
            await until(lambda: len(wire.replies()) >= count)

        await wire.send(patch(named("known")))
        await answered(1)
        wire.protocol.data_received(patch(named("one")))
        behind = patch(named("two")) * (MAX_BUFFERED_BYTES // len(patch(named("two"))) + 1)
        wire.protocol.data_received(behind)
        assert wire.is_paused

        await answered(2 + behind.count(b"two"))
        assert not wire.is_paused


async def test_reading_goes_on_when_both_reasons_to_stop_are_gone(here: World) -> None:
    async with connections(app_of(here), door_of(here), shutdown_timeout_s=2.0) as connection:
        wire = Wire(connection())  # type: ignore[arg-type]
        much = patch(named("two")) * (MAX_BUFFERED_BYTES // len(patch(named("two"))) + 1)
        await wire.send(patch(named("known")))
        await until(lambda: len(wire.replies()) == 1)

        wire.protocol.data_received(patch(named("one")))
        wire.protocol.data_received(much)
        wire.protocol.pause_writing()
        wire.protocol.resume_writing()
        assert wire.is_paused, "much is held"
        wire.protocol.data_received(b"")
        assert wire.is_paused
        await until(lambda: len(wire.replies()) >= 2 + much.count(b"two"))
        assert not wire.is_paused

        wire = Wire(connection())
        wire.protocol.data_received(patch(named("three")))
        wire.protocol.pause_writing()
        await until(lambda: len(wire.replies()) == 1)
        assert wire.is_paused, "the caller has not read"
        wire.protocol.resume_writing()
        assert not wire.is_paused


async def test_a_write_is_kept_though_its_caller_left(here: World, door: Served) -> None:
    line = await door.line()
    await line.ask(patch(named("known")))
    leaving = await door.line()

    await leaving.send(patch(named("left behind")))
    leaving.writer.transport.abort()
    await here.write(OTHER_EID, "update_execution", name="after it in the queue")

    await until(lambda: here.spool.queues.length(EID) == 2)
    assert await names_in(here) == ["known", "left behind"]


async def test_heads_of_writes_are_bounded(here: World) -> None:
    async with served(here, response_cache=True, max_bytes=20_000) as listener:
        line = await listener.line()
        assert listener.door is not None
        for number in range(100):
            await line.ask(patch(named("n"), f"X-Filler: {number}"))
            assert listener.door.calls.size_bytes <= 20_000

        before = listener.to_aiohttp
        await line.ask(patch(named("n"), "X-Filler: 99"))
        assert listener.to_aiohttp == before


async def test_heads_of_writes_keep_nothing_of_the_requests_they_came_with(here: World) -> None:
    count, blanks = 20, b" " * 200_000
    stats = msgspec.json.encode(
        {"workflowId": WORKFLOW, "uri": f"vfs:///wid/{WORKFLOW}/eid/{EID}/runtimestatistics"}
    )
    async with connections(app_of(here), door_of(here), shutdown_timeout_s=2.0) as connection:
        tracemalloc.start()
        try:
            for number in range(count):
                other = f"X-Filler: {number}"
                for write in (
                    patch(named("n") + blanks, other),
                    patch(stats + blanks, other).replace(ROUTE, DROP_IN_ROUTE),
                ):
                    wire = Wire(connection())  # type: ignore[arg-type]
                    await wire.send(write)
                    await until(lambda of=wire: bool(of.written))  # type: ignore[misc]
                    assert wire.replies()[0].status == 202
                    wire.close()
            await here.deliver()
            gc.collect()
            held_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert held_bytes < count * len(blanks) / 4


async def test_a_status_that_has_no_name_is_answered_all_the_same(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = []
    for response_cache in (True, False):
        async with served(here, response_cache=response_cache) as listener:
            line = await listener.line()
            await line.ask(patch(named("known")))

            async def refuse(new: Any) -> int:
                raise UpstreamProblem({"type": "odd", "status": 499, "detail": "no name"}, {})

            with monkeypatch.context() as patched:
                patched.setattr(here.spool, "append", refuse)
                replies.append(await line.ask(patch(named("refused"), "X-Request-Id: one")))

    assert replies[0].comparable() == replies[1].comparable()
    assert replies[0].status == 499


async def test_a_fault_of_our_own_is_a_problem_and_no_second_write(
    here: World, door: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line = await door.line()
    await line.ask(patch(named("known")))
    append = here.spool.append

    async def stumble(new: Any) -> int:
        await append(new)
        raise RuntimeError("after the write")

    monkeypatch.setattr(here.spool, "append", stumble)
    reply = await line.ask(patch(named("once")))

    assert reply.status == 500
    assert b"after the write" not in reply.body
    assert "request failed" in caplog.text
    assert await names_in(here) == ["known", "once"]
