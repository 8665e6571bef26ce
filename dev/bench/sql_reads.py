"""The cached read beside the SQL that it replaces, call by call."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import asyncpg

from dev.bench.bench_system import Bench, expect
from dev.bench.figure import Figure, Goal, Section, timed_us
from dev.bench.hot_reads import stored_result
from dev.bench.measurements import WARM_UP_COUNT, Way, interleaved
from dev.child import Child
from dev.database_url import tcp_address, with_address
from dev.latency import Forward
from dev.ports import HOST
from dev.probes import listens, wait_for

# What the computing unit asks today: the table has one row for each port of the execution.
SELECT = "SELECT result_uri FROM texera_db.operator_port_executions WHERE workflow_execution_id=$1"
SLOW_OFFSET = 32
RTT_MS = 1


async def sql_reads(bench: Bench, rounds: int, count: int) -> Section:
    target = await stored_result(bench)
    execution_id = int(target.split("/")[3])
    line = bench.sidecar
    request = line.request("GET", target)
    url = bench.system.ready["database"]
    misses = 0

    async def read() -> None:
        nonlocal misses
        answer = expect(await line.send(request), 200)
        misses += b"X-Cache: hit" not in answer.head

    async def held() -> None:
        await bench.direct.fetch(SELECT, execution_id)

    async with _slow(bench, url) as slow, asyncpg.create_pool(url, min_size=1, max_size=1) as pool:

        async def far() -> None:
            await slow.fetch(SELECT, execution_id)

        async def pooled() -> None:
            async with pool.acquire() as connection:
                await connection.fetch(SELECT, execution_id)

        calls = (read, held, far, pooled)
        for call in calls:
            await timed_us(call, WARM_UP_COUNT)
        misses = 0
        ways: list[Way] = [partial(timed_us, call, count) for call in calls]
        taken = await interleaved(ways, rounds)
    sidecar, held_sql, far_sql, pooled_sql = (
        Figure(name, "µs", samples)
        for name, samples in zip(
            (
                "the sidecar's cached answer",
                "held asyncpg connection",
                f"the same, {RTT_MS} ms away",
                "asyncpg pool as shipped",
            ),
            taken,
            strict=True,
        )
    )
    return Section(
        "Cached read beside SQL",
        "`GET …/result-uri` on one keep-alive connection against the SELECT it replaces, on an "
        f"execution with one result. Answers that were not `X-Cache: hit`: {misses} of "
        f"{sidecar.count}.",
        [sidecar, held_sql, far_sql, pooled_sql],
        [
            Goal(
                "cached read / SQL on a held connection", sidecar.ratios_to(held_sql), 0.8, "x", 2
            ),
            Goal(f"cached read / SQL {RTT_MS} ms away", sidecar.ratios_to(far_sql), 0.12, "x", 3),
            Goal("cached read / SQL through a pool", sidecar.ratios_to(pooled_sql), 0.4, "x", 2),
        ],
    )


@asynccontextmanager
async def _slow(bench: Bench, url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to the database with a round trip added."""
    folder, port = bench.system.folder, bench.system.ports.base + SLOW_OFFSET
    argv = [sys.executable, "-m", "dev", "latency", "--rtt-ms", str(RTT_MS)]
    argv.append(f"--forward={Forward(port, *tcp_address(url))}")
    env = folder.environment("slow", {}, os.environ)
    forwarder = await Child.start("slow", argv, env, folder.log("slow"), signal.SIGKILL)
    try:
        await wait_for(forwarder, listens(port))
        connection = await asyncpg.connect(with_address(url, HOST, port))
        try:
            yield connection
        finally:
            await connection.close()
    finally:
        forwarder.process.kill()
        await forwarder.process.wait()
