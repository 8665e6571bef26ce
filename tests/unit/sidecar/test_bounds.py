"""Whatever is asked for, and however often, metrics and memory stay small."""

import gc
import secrets
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.front.listening import connections
from tests.unit.sidecar.fronting import Wire, app_of, door_of, get
from tests.unit.sidecar.reading import WORKFLOW, World, world

KIB = 1024
METHODS = (b"PROPFIND", b"REPORT", b"SEARCH", b"LINK", b"PURGE", b"OPTIONS", b"TRACE", b"HEAD")
IDS = 150
READS = 1_000
"""In each half. The bench sends hundreds of thousands: docs/benchmarks.md."""
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
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path, max_bytes=MAX_BYTES) as here:
        here.central.readers.add(("a", WORKFLOW))
        yield here


def label_sets(here: World) -> set[tuple[str, ...]]:
    text = generate_latest(here.metrics.registry).decode()
    return {
        (sample.name, *sorted(sample.labels.values()))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("front_door", [True, False])
async def test_random_ids_make_no_labels(here: World, front_door: bool) -> None:
    door = door_of(here) if front_door else None
    async with connections(app_of(here), door, shutdown_timeout_s=2.0) as connection:

        async def ask_for(number: int) -> None:
            here.central.add(number)
            wire = Wire(connection())  # type: ignore[arg-type]
            for path in PATHS:
                target = path.format(number, secrets.token_hex(4))
                for request in (get(target), get(target, token=secrets.token_hex(8))):
                    await wire.send(request)
            await wire.send(get("/", token="b").replace(b"GET", METHODS[number % len(METHODS)]))
            assert len(wire.replies()) == 2 * len(PATHS) + 1

        for number in range(1, 10):
            await ask_for(number)
        few = label_sets(here)
        for number in range(10, IDS):
            await ask_for(number)

        assert label_sets(here) == few


async def test_reads_never_made_before_take_no_more_memory(here: World) -> None:
    door = door_of(here, MAX_BYTES)
    async with connections(app_of(here), door, shutdown_timeout_s=2.0) as connection:
        wire = Wire(connection())  # type: ignore[arg-type]

        async def read(first: int) -> None:
            for number in range(first, first + READS):
                here.central.add(number)
                for _ in range(3):  # from central, from memory, from the door
                    await wire.send(get(f"/v1/executions/{number}/uris"))
                assert wire.written.count(b"X-Cache: hit") == 2
                wire.written.clear()
                here.central.rows.clear()
                here.central.registries.clear()
                here.central.calls.clear()
                assert here.reads.size_bytes <= MAX_BYTES
                assert door.answers.size_bytes <= MAX_BYTES

        await read(1)
        gc.collect()
        tracemalloc.start()
        try:
            await read(1 + READS)
            gc.collect()
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        # All that was remembered of the first half has been replaced: what was traced is what is
        # there now, the stores' bytes and the bounded tables beside them.
        assert grown < 3 * MAX_BYTES + READS * KIB
        assert here.count("uris", "miss") == 2 * READS
