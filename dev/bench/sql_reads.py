"""The cached read beside the SQL that it replaces, call by call."""

from functools import partial

import asyncpg

from dev.bench.bench_system import Bench, expect
from dev.bench.delayed_db import RTT_MS, delayed_connection
from dev.bench.hot_reads import stored_result
from dev.bench.measurement import (
    WARM_UP_COUNT,
    Goal,
    Measurement,
    Section,
    Variant,
    interleaved,
    timed_us,
)

# What the computing unit asks today: the table has one row for each port of the execution.
SELECT = "SELECT result_uri FROM texera_db.operator_port_executions WHERE workflow_execution_id=$1"


async def sql_reads(bench: Bench, rounds: int, count: int) -> Section:
    target = await stored_result(bench)
    execution_id = int(target.split("/")[3])
    client = bench.sidecar
    request = client.request("GET", target)
    url = bench.system.ready["database"]
    misses = 0

    async def read() -> None:
        nonlocal misses
        response = expect(await client.send(request), 200)
        misses += b"X-Cache: hit" not in response.head

    async def held() -> None:
        await bench.direct.fetch(SELECT, execution_id)

    async with (
        delayed_connection(bench) as delayed_held,
        asyncpg.create_pool(url, min_size=1, max_size=1) as pool,
    ):

        async def delayed() -> None:
            await delayed_held.fetch(SELECT, execution_id)

        async def pooled() -> None:
            async with pool.acquire() as connection:
                await connection.fetch(SELECT, execution_id)

        calls = (read, held, delayed, pooled)
        for call in calls:
            await timed_us(call, WARM_UP_COUNT)
        misses = 0
        variants: list[Variant] = [partial(timed_us, call, count) for call in calls]
        taken = await interleaved(variants, rounds)
    sidecar, held_sql, delayed_sql, pooled_sql = (
        Measurement(name, "µs", samples)
        for name, samples in zip(
            (
                "the sidecar's cached response",
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
        f"execution with one result. Responses that were not `X-Cache: hit`: {misses} of "
        f"{sidecar.count}.",
        [sidecar, held_sql, delayed_sql, pooled_sql],
        [
            Goal(
                "cached read / SQL on a held connection", sidecar.ratios_to(held_sql), 0.8, "x", 2
            ),
            Goal(
                f"cached read / SQL {RTT_MS} ms away", sidecar.ratios_to(delayed_sql), 0.12, "x", 3
            ),
            Goal("cached read / SQL through a pool", sidecar.ratios_to(pooled_sql), 0.4, "x", 2),
        ],
    )
