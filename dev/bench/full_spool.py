"""A sidecar's memory while it delivers a full spool."""

import asyncio
import time

from dev.bench.bench_system import Bench, expect
from dev.bench.load import clients, stopped, urls
from dev.bench.machine import peak_rss_mib
from dev.bench.measurement import Goal, Measurement, Section
from dev.bench.raw_http_client import RawHttpClient

WRITERS = 16
RESULT = "x" * 8_000
"""Batches of the most bytes: they hold more memory than those of the most entries."""
FULL = b"spool-full"


async def full_spool(bench: Bench, most: int) -> Section:
    """Fills the spool while central is stopped (`most` writes at most), then delivers it."""
    sidecar_url, token, _ = urls(bench)
    executions = [await bench.new_execution() for _ in range(WRITERS)]
    pid = bench.system.ready["processes"]["sidecar"]["pid"]
    async with clients(bench, sidecar_url, token, WRITERS) as writing:
        # Their token is new to the sidecar, which has central authorize it once.
        first = zip(writing, executions, strict=True)
        await asyncio.gather(*(_fill(client, eid, 1) for client, eid in first))
        with stopped(bench.system.processes["central"].pid):
            each = most // WRITERS
            pairs = zip(writing, executions, strict=True)
            counts = await asyncio.gather(*(_fill(client, eid, each) for client, eid in pairs))
        started_at = time.perf_counter()
        flush = writing[0].request("POST", "/v1/flush?timeout=60")
        while (await writing[0].send(flush)).status != 200:
            pass
        took_s = time.perf_counter() - started_at
    memory = Measurement("highest VmRSS of the sidecar", "MiB", [[peak_rss_mib(pid)]], 1)
    taken = Measurement("until all is committed", "s", [[took_s]], 1)
    return Section(
        "A full spool",
        f"{sum(counts):,} writes of 8 kB, made durable while central was stopped (SIGSTOP), until"
        " the spool was full (256 MiB, an eighth of it kept for the ends of runs); from SIGCONT"
        " until the last is committed. The memory is the most that the process has ever had"
        " (VmHWM).",
        [memory, taken],
        [Goal("VmRSS, replaying a full spool", memory.quartiles, 96, "MiB", 1)],
    )


async def _fill(client: RawHttpClient, execution_id: int, most: int) -> int:
    """Write until the spool is full; the number of writes that it took."""
    request = client.request("PATCH", f"/v1/executions/{execution_id}", {"result": RESULT})
    for count in range(most):
        response = await client.send(request)
        if FULL in response.body:
            return count
        expect(response, 202)
    return most
