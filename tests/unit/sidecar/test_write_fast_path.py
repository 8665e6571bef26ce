"""Writes with a stored head bypass aiohttp and have the same effects."""

import gc
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kit.http.body_reader import UNCOUNTED_BODY_BYTES
from sidecar.problems import UpstreamProblem
from sidecar.server.protocol import MAX_BUFFERED_BYTES, running_server
from tests.unit.sidecar.delivery_fixtures import until
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, open_world
from tests.unit.sidecar.server_fixtures import (
    MemoryTransport,
    Served,
    app_of,
    factory_of,
    get,
    served,
)
from tests.unit.sidecar.write_requests import EID, OTHER_EID, create_binding, named, patch

ROW = f"/v1/executions/{EID}"
ROUTE = f"PATCH {ROW} ".encode()
DROP_IN_ROUTE = f"PUT /api/internal/execution-metadata/{EID}/runtime-stats-uri ".encode()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        await create_binding(world)
        yield world


@pytest.fixture
async def server(world: World) -> AsyncIterator[Served]:
    async with served(world, response_cache=True) as listener:
        yield listener


async def names_in(world: World) -> list[str]:
    waiting = await world.spool.waiting(EID)
    return [msgspec.json.decode(entry.payload)["name"] for entry in waiting]


async def test_a_write_with_a_stored_head_bypasses_the_application(
    world: World, server: Served
) -> None:
    client = await server.connect()

    replies = [await client.request(patch(named("n" * number))) for number in range(1, 10)]

    assert {reply.status for reply in replies} == {202}
    assert server.to_aiohttp == 1
    assert await names_in(world) == ["n" * number for number in range(1, 10)]
    assert len({reply.body for reply in replies}) == 9, "each has an id of its own"
    assert len({reply.header("X-Request-Id") for reply in replies}) == 9
    labels = {"route": "/v1/executions/{execution_id}", "method": "PATCH"}
    sample = world.metrics.registry.get_sample_value
    assert sample("sidecar_requests_total", labels | {"outcome": "ok"}) == 9
    assert sample("sidecar_request_seconds_count", labels) == 9


async def test_trace_context_and_request_id_are_not_part_of_the_key(
    world: World, server: Served
) -> None:
    client = await server.connect()
    await client.request(patch(named("first")))

    for number in range(1, 20):
        trace = f"traceparent: 00-{number:032x}-{number:016x}-01"
        reply = await client.request(patch(named("n"), trace, f"X-Request-Id: mine.{number}"))
        assert reply.header("X-Request-Id") == f"mine.{number}"

    assert server.to_aiohttp == 1


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
async def test_a_head_that_differs_otherwise_reaches_the_application(
    world: World, server: Served, other: bytes
) -> None:
    client = await server.connect()
    await client.request(patch(named("first")))
    assert server.factory is not None

    assert server.factory.write_fast_path.match(patch(named("n"))) is not None
    assert server.factory.write_fast_path.match(other) is None


async def test_an_ended_grant_is_not_replayed(world: World, server: Served) -> None:
    client = await server.connect()
    for _ in range(2):
        await client.request(patch(named("allowed")))
    world.spool.bindings.forget([EID])

    reply = await client.request(patch(named("not any more"), "X-Request-Id: this-one"))

    assert reply.status == 404
    assert f"bind {EID} for this-one" in world.central.calls
    assert "not any more" not in await names_in(world)


async def test_requests_behind_a_replayed_write_are_served_in_order(
    world: World, server: Served
) -> None:
    client = await server.connect()
    for _ in range(3):
        await client.request(get(ROW))
    await client.request(patch(named("known")))

    await client.send(patch(named("one")))
    await client.send(get(ROW))
    await client.send(patch(named("two")) + get("/nowhere"))
    replies = [await client.reply() for _ in range(4)]

    assert [reply.status for reply in replies if reply is not None] == [202, 200, 202, 404]
    assert replies[1] is not None
    assert b'"one"' in replies[1].body, "a read behind a write sees it"
    assert await names_in(world) == ["known", "one", "two"]


async def test_reading_pauses_when_too_much_is_buffered_behind_a_write(world: World) -> None:
    async with running_server(
        app_of(world), factory_of(world), shutdown_timeout_s=2.0
    ) as make_protocol:
        transport = MemoryTransport(make_protocol())  # type: ignore[arg-type]

        async def answered(count: int) -> None:
            await until(lambda: len(transport.replies()) >= count)

        await transport.send(patch(named("known")))
        await answered(1)
        transport.protocol.data_received(patch(named("one")))
        behind = patch(named("two")) * (MAX_BUFFERED_BYTES // len(patch(named("two"))) + 1)
        transport.protocol.data_received(behind)
        assert transport.is_paused

        await answered(2 + behind.count(b"two"))
        assert not transport.is_paused


async def test_reading_resumes_once_neither_buffer_nor_client_blocks_it(world: World) -> None:
    async with running_server(
        app_of(world), factory_of(world), shutdown_timeout_s=2.0
    ) as make_protocol:
        transport = MemoryTransport(make_protocol())  # type: ignore[arg-type]
        much = patch(named("two")) * (MAX_BUFFERED_BYTES // len(patch(named("two"))) + 1)
        await transport.send(patch(named("known")))
        await until(lambda: len(transport.replies()) == 1)

        transport.protocol.data_received(patch(named("one")))
        transport.protocol.data_received(much)
        transport.protocol.pause_writing()
        transport.protocol.resume_writing()
        assert transport.is_paused, "much is held"
        transport.protocol.data_received(b"")
        assert transport.is_paused
        await until(lambda: len(transport.replies()) >= 2 + much.count(b"two"))
        assert not transport.is_paused

        transport = MemoryTransport(make_protocol())
        transport.protocol.data_received(patch(named("three")))
        transport.protocol.pause_writing()
        await until(lambda: len(transport.replies()) == 1)
        assert transport.is_paused, "the caller has not read"
        transport.protocol.resume_writing()
        assert not transport.is_paused


async def test_a_write_is_durable_though_its_client_left(world: World, server: Served) -> None:
    client = await server.connect()
    await client.request(patch(named("known")))
    leaving = await server.connect()

    await leaving.send(patch(named("left behind")))
    leaving.writer.transport.abort()
    await world.write(OTHER_EID, "update_execution", name="after it in the queue")

    await until(lambda: world.spool.queues.length(EID) == 2)
    assert await names_in(world) == ["known", "left behind"]


async def test_stored_write_heads_are_bounded(world: World) -> None:
    async with served(world, response_cache=True, max_bytes=20_000) as listener:
        client = await listener.connect()
        assert listener.factory is not None
        for number in range(100):
            await client.request(patch(named("n"), f"X-Filler: {number}"))
            assert listener.factory.write_fast_path.size_bytes <= 20_000

        before = listener.to_aiohttp
        await client.request(patch(named("n"), "X-Filler: 99"))
        assert listener.to_aiohttp == before


async def test_a_stored_write_head_retains_nothing_else_of_its_request(world: World) -> None:
    count, blanks = 20, b" " * 200_000
    stats = msgspec.json.encode(
        {"workflowId": WORKFLOW, "uri": f"vfs:///wid/{WORKFLOW}/eid/{EID}/runtimestatistics"}
    )
    async with running_server(
        app_of(world), factory_of(world), shutdown_timeout_s=2.0
    ) as make_protocol:
        tracemalloc.start()
        try:
            for number in range(count):
                other = f"X-Filler: {number}"
                for write in (
                    patch(named("n") + blanks, other),
                    patch(stats + blanks, other).replace(ROUTE, DROP_IN_ROUTE),
                ):
                    transport = MemoryTransport(make_protocol())  # type: ignore[arg-type]
                    await transport.send(write)
                    await until(lambda of=transport: bool(of.written))  # type: ignore[misc]
                    assert transport.replies()[0].status == 202
                    transport.close()
            await world.deliver()
            gc.collect()
            held_bytes, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert held_bytes < count * len(blanks) / 4


async def test_a_status_code_without_a_reason_phrase_is_sent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = []
    for response_cache in (True, False):
        async with served(world, response_cache=response_cache) as listener:
            client = await listener.connect()
            await client.request(patch(named("known")))

            async def refuse(new: Any) -> int:
                raise UpstreamProblem({"type": "odd", "status": 499, "detail": "no name"}, {})

            with monkeypatch.context() as patched:
                patched.setattr(world.spool, "append", refuse)
                replies.append(await client.request(patch(named("refused"), "X-Request-Id: one")))

    assert replies[0].comparable() == replies[1].comparable()
    assert replies[0].status == 499


async def test_an_unexpected_exception_is_a_500_and_not_retried(
    world: World, server: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = await server.connect()
    await client.request(patch(named("known")))
    append = world.spool.append

    async def stumble(new: Any) -> int:
        await append(new)
        raise RuntimeError("after the write")

    monkeypatch.setattr(world.spool, "append", stumble)
    reply = await client.request(patch(named("once")))

    assert reply.status == 500
    assert b"after the write" not in reply.body
    assert "call failed" in caplog.text
    assert await names_in(world) == ["known", "once"]
