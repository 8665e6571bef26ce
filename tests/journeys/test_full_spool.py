"""A spool that is full is delivered by a sidecar that stays small."""

import asyncio
import time
from pathlib import Path

import pytest

from dev.bench.machine import peak_rss_mib
from dev.bench.raw_http_client import RawHttpClient
from dev.world import WORLD
from sidecar.problems import SpoolFull
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.entry import NewEntry, Priority
from sidecar.spool.spool import Spool
from tests.databases import Database
from tests.journeys.crashing.processes import Sidecar, sample, until
from tests.journeys.crashing.scenario import scenario

SPOOL_MIB = 256  # the default (docs/operations.md)
MOST_MIB = 96
LEFT_MIB = 16
"""Of a drained spool: the log, and the last 10,000 that ended."""
AT_ONCE = 512
PATIENCE_S = 300


async def fill(sidecar: Sidecar, document_bytes: int) -> int:
    """Appends to a stopped sidecar's spool until it is full. Answers how many."""
    spool = Spool(sidecar.volume.live, SpoolLimits(SPOOL_MIB * 2**20))
    await spool.open()
    before = spool.queues.entry_count
    while not spool.is_full:
        new = [
            NewEntry(
                sidecar.execution_ids[number % len(sidecar.execution_ids)],
                WORLD.owner.user_id,
                "update_execution",
                {"result": "x" * document_bytes},
                Priority.NORMAL,
            )
            for number in range(AT_ONCE)
        ]
        for response in await asyncio.gather(*map(spool.append, new), return_exceptions=True):
            assert isinstance(response, int | SpoolFull), response
    count = spool.queues.entry_count - before
    assert spool.queues.size_bytes > SPOOL_MIB * 2**20 * 0.8
    await spool.close()
    return count


async def delivered(sidecar: Sidecar) -> None:
    async with asyncio.timeout(PATIENCE_S), RawHttpClient(sidecar.url, sidecar.token) as line:
        flush = line.request("POST", "/v1/flush?timeout=60")
        while (await line.send(flush)).status != 200:
            pass


def size_mib(directory: Path) -> float:
    """Of the file and its log."""
    return sum(path.stat().st_size for path in directory.glob("spool.sqlite3*")) / 2**20


@pytest.mark.timeout(2 * PATIENCE_S)
async def test_memory_is_bounded_while_a_full_spool_is_replayed(
    database: Database,
) -> None:
    async with scenario(database, 1) as it:
        sidecar = await it.add_sidecar(forked=False)
        await sidecar.process.kill()
        count = await fill(sidecar, document_bytes=8_000)

        began_at = time.monotonic()
        sidecar.start()
        await sidecar.until_ready()
        await delivered(sidecar)
        took_s = time.monotonic() - began_at

        highest = peak_rss_mib(sidecar.process.pid)
        committed = await sample(
            sidecar.ops_url, 'sidecar_writes_total{op="update_execution",state="committed"}'
        )
        print(f"{count} writes, {took_s:.1f} s, at most {highest:.1f} MiB")  # noqa: T201
        assert committed == count
        assert highest <= MOST_MIB
        await until(lambda: size_mib(sidecar.volume.live) < LEFT_MIB)
