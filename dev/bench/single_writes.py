"""One write after the other: until it is durable, and until it is committed."""

import asyncio
import time
from statistics import median
from urllib.parse import quote

from dev.bench.baseline_server import UPDATE_NAME
from dev.bench.bench_system import Bench, expect
from dev.bench.delayed_db import RTT_MS, delayed_connection
from dev.bench.machine import SYNC_BYTES, sync_us
from dev.bench.measurement import (
    WARM_UP_COUNT,
    Goal,
    Measurement,
    Quartiles,
    Section,
    Variant,
    interleaved,
    timed_us,
)
from dev.problems import DevProblem

WAIT = "Prefer: wait=5\r\n"
IDLE_PAUSE_S = 0.02  # longer than a delivery takes, so that each write finds the system idle
DRAIN_TIMEOUT_S = 60.0


async def durable_write(bench: Bench, rounds: int, count: int) -> Section:
    client, baseline, names = bench.sidecar, bench.baseline, bench.names
    sidecar_id, baseline_id, direct_id, delayed_id = [await bench.new_execution() for _ in range(4)]
    last_write = ""

    async def acknowledge() -> None:
        nonlocal last_write
        body = {"name": f"name {next(names)}"}
        sent = client.request("PATCH", f"/v1/executions/{sidecar_id}", body)
        last_write = expect(await client.send(sent), 202).json()["write_id"]

    async def acknowledge_all() -> list[float]:
        samples = await timed_us(acknowledge, count)
        await drained(bench, last_write)  # its delivery must not slow the other variants
        return samples

    async def update_by_http() -> None:
        body = {"name": f"name {next(names)}"}
        expect(
            await baseline.send(baseline.request("PATCH", f"/executions/{baseline_id}", body)), 200
        )

    async def update_directly() -> None:
        await bench.direct.execute(UPDATE_NAME, direct_id, f"name {next(names)}")

    for call in (acknowledge, update_by_http, update_directly):
        await timed_us(call, WARM_UP_COUNT)
    await drained(bench, last_write)
    async with delayed_connection(bench) as delayed:

        async def update_delayed() -> None:
            await delayed.execute(UPDATE_NAME, delayed_id, f"name {next(names)}")

        async def sync() -> list[float]:
            return sync_us(bench.system.folder.path, count)

        await timed_us(update_delayed, WARM_UP_COUNT)
        variants: list[Variant] = [
            acknowledge_all,
            lambda: timed_us(update_by_http, count),
            lambda: timed_us(update_directly, count),
            lambda: timed_us(update_delayed, count),
            sync,
        ]
        taken = await interleaved(variants, rounds)
    sidecar = Measurement("the sidecar, acknowledged when durable", "µs", taken[0])
    http = Measurement("HTTP call with one committed UPDATE", "µs", taken[1])
    direct = Measurement("direct committed UPDATE", "µs", taken[2])
    distant = Measurement(f"the same, {RTT_MS} ms away", "µs", taken[3])
    disk = Measurement(
        f"fdatasync of {SYNC_BYTES} appended bytes, beside the spool", "µs", taken[4]
    )
    beyond = [median(a) - median(b) for a, b in zip(taken[0], taken[4], strict=True)]
    beside = sidecar.ratios_to(direct)
    return Section(
        "Durable acknowledgement",
        '`PATCH {"name": …}`, each a write of its own, on one connection while delivery runs '
        "beside it; against an aiohttp server (uvloop, no token check) that makes one committed "
        "change per call on a held asyncpg connection, and against that statement "
        "itself. What the sidecar took is delivered before the next variant starts. "
        "Beside the direct statement the acknowledgement "
        f"takes {beside.text(2)} times as long (no goal is set on loopback).",
        [sidecar, http, direct, distant, disk],
        [
            Goal("durable acknowledgement / HTTP UPDATE", sidecar.ratios_to(http), 1.0, "x", 2),
            Goal(
                f"durable acknowledgement / UPDATE {RTT_MS} ms away",
                sidecar.ratios_to(distant),
                0.35,
                "x",
                2,
            ),
            Goal("durable acknowledgement beyond one sync", Quartiles.of(beyond), 600, "µs", 0),
        ],
    )


async def drained(bench: Bench, write_id: str) -> None:
    """Wait until this write is committed, and so all before it."""
    request = bench.sidecar.request("GET", f"/v1/writes/{quote(write_id, safe='')}")
    give_up_at = time.monotonic() + DRAIN_TIMEOUT_S
    while (state := expect(await bench.sidecar.send(request), 200).json()["state"]) == "durable":
        if time.monotonic() > give_up_at:
            raise DevProblem("The sidecar's writes were not delivered in a minute.")
        await asyncio.sleep(IDLE_PAUSE_S)
    if state != "committed":
        raise DevProblem(f"A measured write is {state}.")


async def committed_write(bench: Bench, rounds: int, count: int) -> Section:
    execution_id = await bench.new_execution()
    client = bench.sidecar

    async def commit() -> None:
        body = {"name": f"name {next(bench.names)}"}
        request = client.request("PATCH", f"/v1/executions/{execution_id}", body, WAIT)
        expect(await client.send(request), 200)

    async def commit_all() -> list[float]:
        samples = []
        for _ in range(count):
            await asyncio.sleep(IDLE_PAUSE_S)
            samples += [us / 1000 for us in await timed_us(commit, 1)]
        return samples

    await commit_all()
    [taken] = await interleaved([commit_all], rounds)
    measurement = Measurement("PATCH with Prefer: wait=5", "ms", taken, digits=2)
    return Section(
        "Durable to committed, idle",
        "The whole round trip of a write that waits until central has committed it (so "
        "acknowledgement, delivery and commit together), one at a time with "
        f"{IDLE_PAUSE_S * 1000:.0f} ms between them.",
        [measurement],
        [Goal("committed, p50", measurement.quartiles, 10.0, "ms", 2)],
    )
