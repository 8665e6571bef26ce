"""Writes and whole runs. In each, every round takes all ways in turn, the first one changing."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote, urlsplit

from dev import figures
from dev.bench.baseline_server import UPDATE_NAME
from dev.bench.bench_system import Bench, expect
from dev.bench.figure import Figure, Goal, Section, timed_us
from dev.computing_unit import ComputingUnit
from dev.direct_sql import DirectSqlBackend
from dev.metadata_backend import MetadataBackend
from dev.narrators import Silence
from dev.problems import DevProblem
from dev.run_plan import RunPlan
from dev.system import CENTRAL_ROLE

WAIT = "Prefer: wait=5\r\n"
WARM_UP_COUNT = 50
IDLE_PAUSE_S = 0.02  # longer than a delivery takes, so that each write finds the system idle
DRAIN_TIMEOUT_S = 60.0

Way = Callable[[], Awaitable[list[float]]]


async def interleaved(ways: list[Way], round_count: int) -> list[list[list[float]]]:
    """The rounds of each way. Another way begins each round."""
    rounds: list[list[list[float]]] = [[] for _ in ways]
    for number in range(round_count):
        for place in range(len(ways)):
            way = (number + place) % len(ways)
            rounds[way].append(await ways[way]())
    return rounds


async def durable_write(bench: Bench, rounds: int, count: int) -> Section:
    line, baseline, names = bench.sidecar, bench.baseline, bench.names
    mine, theirs, direct_id = [await bench.new_execution() for _ in range(3)]
    last_write = ""

    async def acknowledge() -> None:
        nonlocal last_write
        body = {"name": f"name {next(names)}"}
        sent = line.request("PATCH", f"/v1/executions/{mine}", body)
        last_write = expect(await line.send(sent), 202).json()["write_id"]

    async def acknowledge_all() -> list[float]:
        samples = await timed_us(acknowledge, count)
        await drained(bench, last_write)  # nobody else pays for our delivery
        return samples

    async def update_by_http() -> None:
        body = {"name": f"name {next(names)}"}
        expect(await baseline.send(baseline.request("PATCH", f"/executions/{theirs}", body)), 200)

    async def update_directly() -> None:
        await bench.direct.execute(UPDATE_NAME, direct_id, f"name {next(names)}")

    for call in (acknowledge, update_by_http, update_directly):
        await timed_us(call, WARM_UP_COUNT)
    await drained(bench, last_write)
    ways: list[Way] = [
        acknowledge_all,
        lambda: timed_us(update_by_http, count),
        lambda: timed_us(update_directly, count),
    ]
    taken = await interleaved(ways, rounds)
    sidecar = Figure("the sidecar, answered when durable", "µs", taken[0])
    http = Figure("HTTP call with one committed UPDATE", "µs", taken[1])
    direct = Figure("direct committed UPDATE", "µs", taken[2])
    beside = sidecar.ratios_to(direct)
    return Section(
        "Durable acknowledgement",
        '`PATCH {"name": …}`, each a write of its own, on one connection while delivery runs '
        "beside it; against an aiohttp server (uvloop, no token check) that makes one committed "
        "change per call on a held asyncpg connection, and against that statement "
        "itself. What the sidecar took is delivered before the next way begins. "
        "Beside the direct statement the acknowledgement "
        f"takes {beside.text(2)} times as long (no goal is set on loopback).",
        [sidecar, http, direct],
        [Goal("durable acknowledgement / HTTP UPDATE", sidecar.ratios_to(http), 1.0, "x", 2)],
    )


async def drained(bench: Bench, write_id: str) -> None:
    """Wait until central has this write, and so all before it."""
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
    line = bench.sidecar

    async def commit() -> None:
        body = {"name": f"name {next(bench.names)}"}
        request = line.request("PATCH", f"/v1/executions/{execution_id}", body, WAIT)
        expect(await line.send(request), 200)

    async def commit_all() -> list[float]:
        samples = []
        for _ in range(count):
            await asyncio.sleep(IDLE_PAUSE_S)
            samples += [us / 1000 for us in await timed_us(commit, 1)]
        return samples

    await commit_all()
    [taken] = await interleaved([commit_all], rounds)
    figure = Figure("PATCH with Prefer: wait=5", "ms", taken, digits=2)
    return Section(
        "Durable to committed, idle",
        "The whole round trip of a write that is answered once central has committed it (so "
        "acknowledgement, delivery and commit together), one at a time with "
        f"{IDLE_PAUSE_S * 1000:.0f} ms between them.",
        [figure],
        [Goal("committed, p50", figure.quartiles, 10.0, "ms", 2)],
    )


async def replayed_run(
    bench: Bench, rounds: int, plan: RunPlan, name: str, poll_s: float
) -> Section:
    ready = bench.system.ready
    owner = ready["users"]["owner"]
    role = str(urlsplit(ready["database"]).username)

    async def statements(backend: MetadataBackend, by: str) -> list[float]:
        await figures.reset_statements(bench.direct)
        unit = ComputingUnit(
            plan,
            backend,
            Silence(),
            workflow_id=ready["workflow_id"],
            computing_unit_id=ready["computing_unit_id"],
            poll_s=poll_s,
        )
        report = await unit.run()
        if report.errors:
            raise DevProblem(f"The replayed run had errors: {report.errors[0]}")
        return [float(await figures.statements_of(bench.direct, by))]

    async def by_sql() -> list[float]:
        async with DirectSqlBackend(ready["database"], owner["user_id"]) as direct:
            return await statements(direct, role)

    taken = await interleaved([lambda: statements(bench.backend, CENTRAL_ROLE), by_sql], rounds)
    sidecar = Figure("through the sidecar (central's role)", "statements", taken[0])
    direct = Figure("direct SQL", "statements", taken[1])
    return Section(
        "SQL statements of a replayed run",
        f"`{name}` with a poll every {poll_s:g} s, counted by "
        "pg_stat_statements; BEGIN and COMMIT count.",
        [sidecar, direct],
        [Goal("statements / direct SQL", sidecar.ratios_to(direct), 0.1, "x", 3)],
    )
