"""Metrics and memory stay bounded for any requests."""

import gc
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.cache import access, invalidation
from sidecar.server.protocol import running_server
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, open_world
from tests.unit.sidecar.server_fixtures import MemoryTransport, app_of, factory_of, get

KIB = 1024
METHODS = (b"PROPFIND", b"REPORT", b"SEARCH", b"LINK", b"PURGE", b"OPTIONS", b"TRACE", b"HEAD")
IDS = 150
READS = 600
"""In each part. The bench sends a million: docs/benchmarks.md."""
MAX_NEW_BLOCKS = READS // 20
"""Less than one object that every read leaves behind, and more than chance does."""
MAX_BYTES = 256 * KIB
PATHS = (
    "/v1/executions/{}",
    "/v1/executions/{}/uris",
    "/v1/executions/{}/result-uri?operator_id={}",
    "/v1/executions/{}/operators/{}/console",
    "/v1/workflows/{0}/executions/latest?computing_unit_id={0}",
    "/api/internal/execution-metadata/{}/port-results",
    "/nowhere/{}/{}",
)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path, max_bytes=MAX_BYTES) as world:
        world.central.readers.add(("a", WORKFLOW))
        yield world


def label_sets(world: World) -> set[tuple[str, ...]]:
    text = generate_latest(world.metrics.registry).decode()
    return {
        (sample.name, *sorted(sample.labels.values()))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("response_cache", [True, False])
async def test_random_ids_add_no_metric_labels(world: World, response_cache: bool) -> None:
    factory = factory_of(world) if response_cache else None
    async with running_server(app_of(world), factory, shutdown_timeout_s=2.0) as make_protocol:

        async def ask_for(number: int) -> None:
            world.central.add(number)
            transport = MemoryTransport(make_protocol())  # type: ignore[arg-type]
            for path in PATHS:
                target = path.format(number, secrets.token_hex(4))
                for request in (get(target), get(target, token=secrets.token_hex(8))):
                    await transport.send(request)
            await transport.send(
                get("/", token="b").replace(b"GET", METHODS[number % len(METHODS)])
            )
            assert len(transport.replies()) == 2 * len(PATHS) + 1

        for number in range(1, 10):
            await ask_for(number)
        few = label_sets(world)
        for number in range(10, IDS):
            await ask_for(number)

        assert label_sets(world) == few


async def test_reads_of_new_ids_do_not_grow_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tables of grants and of generations would take more reads to be full than a test has.
    monkeypatch.setattr(access, "ACCESS_ENTRIES_MAX", READS // 4)
    monkeypatch.setattr(invalidation, "MAX_GENERATIONS", READS // 4)
    async with open_world(tmp_path, max_bytes=MAX_BYTES) as world:
        world.central.readers.add(("a", WORKFLOW))
        factory = factory_of(world, MAX_BYTES)
        async with running_server(app_of(world), factory, shutdown_timeout_s=2.0) as make_protocol:
            transport = MemoryTransport(make_protocol())  # type: ignore[arg-type]

            async def read(first: int) -> int:
                for number in range(first, first + READS):
                    world.central.add(number)
                    for _ in range(3):  # from central, the value cache, the response cache
                        await transport.send(get(f"/v1/executions/{number}/uris"))
                    assert transport.written.count(b"X-Cache: hit") == 2
                    transport.written.clear()
                    world.central.rows.clear()
                    world.central.registries.clear()
                    world.central.calls.clear()
                    assert world.reads.size_bytes <= MAX_BYTES
                    assert factory.response_cache.size_bytes <= MAX_BYTES
                gc.collect()
                return sys.getallocatedblocks()

            blocks = [await read(1 + part * READS) for part in range(3)]

            # The first part fills every cache; after it each read replaces another.
            assert blocks[2] - blocks[1] < MAX_NEW_BLOCKS
            assert world.count("uris", "miss") == 3 * READS
