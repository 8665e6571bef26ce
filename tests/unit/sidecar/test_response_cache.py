"""The response cache serves what the application would send, and only while it would."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.server.protocol import running_server
from tests.unit.sidecar.delivery_fixtures import until
from tests.unit.sidecar.read_fixtures import (
    ACCESS_TTL_S,
    EXECUTION_CACHE_TTL_S,
    WORKFLOW,
    World,
    open_world,
)
from tests.unit.sidecar.server_fixtures import (
    HttpClient,
    MemoryTransport,
    Served,
    app_of,
    factory_of,
    get,
    served,
)

EID, OTHER_EID = 7, 8
URIS, ROW = f"/v1/executions/{EID}/uris", f"/v1/executions/{EID}"
OWN_PORT = "(logicalOpId=own,layerName=main,portId=0,isInternal=false,isInput=false)"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        world.central.add(EID)
        world.central.readers |= {("a", WORKFLOW), ("b", WORKFLOW)}
        yield world


@pytest.fixture
async def server(world: World) -> AsyncIterator[Served]:
    async with served(world, response_cache=True) as listener:
        yield listener


async def test_a_cached_request_bypasses_the_application(world: World, server: Served) -> None:
    client = await server.connect()

    replies = [await client.request(get(URIS)) for _ in range(10)]

    assert [reply.header("X-Cache") for reply in replies] == ["miss", *["hit"] * 9]
    assert server.to_aiohttp == 2, "the miss, and the hit whose answer was kept"
    assert {reply.body for reply in replies} == {replies[0].body}


async def test_a_cached_response_has_its_own_request_id_and_is_counted(
    world: World, server: Served
) -> None:
    client = await server.connect()

    replies = [await client.request(get(URIS)) for _ in range(10)]
    named = await client.request(get(URIS, "X-Request-Id: mine.1"))
    badly_named = await client.request(get(URIS, "X-Request-Id: not an id"))

    assert len({reply.header("X-Request-Id") for reply in replies}) == 10
    assert named.header("X-Request-Id") == "mine.1"
    assert badly_named.header("X-Request-Id") not in {None, "not an id"}
    labels = {"route": "/v1/executions/{execution_id}/uris", "method": "GET"}
    sample = world.metrics.registry.get_sample_value
    assert sample("sidecar_requests_total", labels | {"outcome": "ok"}) == 12
    assert sample("sidecar_request_seconds_count", labels) == 12
    assert world.count("uris", "hit") == 11


async def test_a_new_trace_context_per_request_neither_misses_nor_evicts(
    world: World, server: Served
) -> None:
    client = await server.connect()
    for _ in range(2):
        await client.request(get(URIS))
    assert server.factory is not None
    size_bytes = server.factory.response_cache.size_bytes

    for number in range(1, 100):
        trace = f"traceparent: 00-{number:032x}-{number:016x}-01"
        await client.request(get(URIS, trace, "tracestate: a=b", f"X-Request-Id: {number}"))

    assert server.to_aiohttp == 2
    assert server.factory.response_cache.size_bytes == size_bytes


async def test_cached_responses_are_bounded(world: World) -> None:
    async with served(world, response_cache=True, max_bytes=20_000) as server:
        client = await server.connect()
        assert server.factory is not None
        for number in range(100):
            for _ in range(2):
                await client.request(get(f"{URIS}", f"Accept: {number}"))
            assert server.factory.response_cache.size_bytes <= 20_000

        before = server.to_aiohttp
        await client.request(get(URIS, "Accept: 99"))
        assert server.to_aiohttp == before


async def test_a_value_served_by_the_response_cache_counts_as_recently_used(tmp_path: Path) -> None:
    async with (
        open_world(tmp_path, max_bytes=20_000) as world,
        served(world, response_cache=True) as server,
    ):
        world.central.readers.add(("a", WORKFLOW))
        for execution_id in range(1, 200):
            world.central.add(execution_id)
        client = await server.connect()
        for number in range(2, 200):
            world.clock.now_s += 0.2
            await client.request(get("/v1/executions/1/uris"))
            await client.request(get(f"/v1/executions/{number}/uris"))

        calls = [target for target in world.central.calls if target == "/v1/executions/1/uris"]
        assert len(calls) == 1


async def test_a_write_whose_client_left_invalidates_the_response(
    world: World, server: Served
) -> None:
    await world.bind(EID, created_here=False)
    client = await server.connect()
    for _ in range(3):
        await client.request(get(ROW))

    writing = asyncio.create_task(world.write(EID, "update_execution", name="renamed"))
    await asyncio.sleep(0)
    writing.cancel()
    await world.write(OTHER_EID, "update_execution", name="after it in the queue")

    assert b"renamed" in (await client.request(get(ROW))).body


async def known(world: World, client: HttpClient, target: str, token: str = "a") -> None:  # noqa: S107
    """Requests the target until its response is cached."""
    for _ in range(3):
        await client.request(get(target, token=token))


async def test_a_response_expires_with_its_value(world: World, server: Served) -> None:
    client = await server.connect()
    await known(world, client, ROW)
    world.central.rows[EID].name = "renamed elsewhere"

    world.clock.now_s += EXECUTION_CACHE_TTL_S - 0.01
    assert b"renamed" not in (await client.request(get(ROW))).body
    world.clock.now_s += 0.01
    assert b"renamed" in (await client.request(get(ROW))).body


async def test_a_response_expires_with_the_grant(world: World, server: Served) -> None:
    client = await server.connect()
    await known(world, client, URIS)
    world.clock.now_s += ACCESS_TTL_S - 1
    world.central.readers.clear()
    await known(world, client, URIS)

    world.clock.now_s += 1

    assert (await client.request(get(URIS))).status == 404


async def test_a_response_expires_with_the_token(world: World, server: Served) -> None:
    world.central.expires_at["a"] = int(world.clock.now_s) + 10
    client = await server.connect()
    await known(world, client, URIS)
    world.clock.now_s += 9.9
    assert (await client.request(get(URIS))).status == 200

    world.clock.now_s += 0.1

    assert (await client.request(get(URIS))).status == 401


async def test_a_clock_set_back_invalidates_the_response(world: World, server: Served) -> None:
    client = await server.connect()
    await known(world, client, URIS)
    world.central.readers.clear()

    world.clock.now_s -= 1

    assert (await client.request(get(URIS))).status == 404


async def test_a_refused_read_invalidates_every_response_about_the_execution(
    world: World, server: Served
) -> None:
    client = await server.connect()
    await known(world, client, URIS)
    await known(world, client, URIS, "b")
    world.central.readers.discard(("a", WORKFLOW))
    world.clock.now_s += EXECUTION_CACHE_TTL_S
    assert (await client.request(get(ROW))).status == 404

    assert (await client.request(get(URIS))).status == 404
    before = server.to_aiohttp
    assert (await client.request(get(URIS, token="b"))).status == 200
    assert server.to_aiohttp == before, "the other token's grant is still valid"


async def test_pipelined_responses_above_the_limit_are_sent_by_aiohttp(
    world: World,
) -> None:
    await world.bind(EID, created_here=False)
    await world.write(EID, "update_execution", result="r" * 20_000)
    await world.deliver()
    async with running_server(
        app_of(world), factory_of(world), shutdown_timeout_s=2.0
    ) as make_protocol:
        transport = MemoryTransport(make_protocol())  # type: ignore[arg-type]
        for _ in range(3):
            await transport.send(get(ROW))
        transport.written.clear()

        transport.protocol.data_received(get(ROW) * 10)
        assert len(transport.written) > 10 * 20_000
        transport.written.clear()
        transport.protocol.data_received(get(ROW) * 100)
        assert not transport.written, "aiohttp sends them, one after the other"
        await until(lambda: transport.written.count(b"HTTP/1.1 200 OK") == 100)


async def test_an_evicted_value_invalidates_the_response(tmp_path: Path) -> None:
    async with (
        open_world(tmp_path, max_bytes=5_000) as world,
        served(world, response_cache=True) as server,
    ):
        world.central.readers.add(("a", WORKFLOW))
        for execution_id in range(1, 20):
            world.central.add(execution_id)
        client = await server.connect()
        await known(world, client, "/v1/executions/1/uris")
        for number in range(2, 20):
            await client.request(get(f"/v1/executions/{number}/uris"))

        before = server.to_aiohttp
        again = await client.request(get("/v1/executions/1/uris"))

        assert server.to_aiohttp == before + 1
        assert again.header("X-Cache") == "miss"


async def test_a_settled_write_replaces_the_response(world: World, server: Served) -> None:
    await world.bind(EID, created_here=False)
    client = await server.connect()
    await known(world, client, URIS)
    await world.put_result(EID, OWN_PORT, "vfs:///a")
    await known(world, client, URIS)
    await world.deliver()

    replies = [await client.request(get(URIS)) for _ in range(3)]

    assert all(b"vfs:///a" in reply.body for reply in replies)
    assert [reply.header("X-Cache") for reply in replies] == ["hit"] * 3
