"""A sidecar's memory while it delivers all that its spool can hold."""

import asyncio
import time

from dev.bench.bench_system import Bench, expect
from dev.bench.cpu import highest_rss_mib
from dev.bench.figure import Goal, Measurement, Section
from dev.bench.http_line import HttpLine
from dev.bench.load import lines, stopped, urls

WRITERS = 16
RESULT = "x" * 8_000
"""Batches of the most bytes: they hold more memory than those of the most entries."""
FULL = b"spool-full"


async def full_spool(bench: Bench, most: int) -> Section:
    """Fills the spool while central is stopped (`most` writes at most), then delivers it."""
    sidecar_url, token, _ = urls(bench)
    executions = [await bench.new_execution() for _ in range(WRITERS)]
    pid = bench.system.ready["processes"]["sidecar"]["pid"]
    async with lines(bench, sidecar_url, token, WRITERS) as writing:
        # Their token is new to the sidecar: it needs central's yes once.
        first = zip(writing, executions, strict=True)
        await asyncio.gather(*(_fill(line, eid, 1) for line, eid in first))
        with stopped(bench.system.children["central"].process.pid):
            each = most // WRITERS
            pairs = zip(writing, executions, strict=True)
            counts = await asyncio.gather(*(_fill(line, eid, each) for line, eid in pairs))
        began_at = time.perf_counter()
        flush = writing[0].request("POST", "/v1/flush?timeout=60")
        while (await writing[0].send(flush)).status != 200:
            pass
        took_s = time.perf_counter() - began_at
    memory = Measurement("highest VmRSS of the sidecar", "MiB", [[highest_rss_mib(pid)]], 1)
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


async def _fill(line: HttpLine, execution_id: int, most: int) -> int:
    """Writes until the spool is full. Answers how often it was not."""
    request = line.request("PATCH", f"/v1/executions/{execution_id}", {"result": RESULT})
    for count in range(most):
        answer = await line.send(request)
        if FULL in answer.body:
            return count
        expect(answer, 202)
    return most
