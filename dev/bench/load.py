"""Many writers at once, and a backlog that drains: the sidecar against one UPDATE per call."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from dev import metrics_scrape
from dev.bench.bench_system import BASELINE_OFFSET, Bench, expect
from dev.bench.machine import cpu_us, used_us, with_children
from dev.bench.measurement import Goal, Measurement, Quartiles, Section, interleaved
from dev.bench.raw_http_client import RawHttpClient
from dev.bench.single_writes import drained
from dev.ports import HOST
from dev.system import CENTRAL_ROLE

WRITERS = (1, 16, 64)

Write = Callable[[RawHttpClient, int], Awaitable[str]]


@asynccontextmanager
async def clients(
    bench: Bench, base_url: str, token: str | None, count: int
) -> AsyncIterator[list[RawHttpClient]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(RawHttpClient(base_url, token)) for _ in range(count)
        ]


async def write_at_once(writers: list[RawHttpClient], count: int, write: Write) -> list[float]:
    """Each writer writes `count` times, one after the other. Microseconds of each write."""

    async def one(client: RawHttpClient, number: int) -> list[float]:
        taken = []
        for _ in range(count):
            started_at = time.perf_counter_ns()
            await write(client, number)
            taken.append((time.perf_counter_ns() - started_at) / 1000)
        return taken

    samples = await asyncio.gather(*(one(client, n) for n, client in enumerate(writers)))
    return [sample for taken in samples for sample in taken]


class Variants:
    """Two ways to write a name: acknowledged when durable, and one UPDATE per call."""

    def __init__(self, bench: Bench, executions: list[int]) -> None:
        self.bench = bench
        self.executions = executions
        self.last_write = ""

    async def durable(self, client: RawHttpClient, number: int) -> str:
        path = f"/v1/executions/{self.executions[number]}"
        request = client.request("PATCH", path, {"name": f"n{next(self.bench.names)}"})
        self.last_write = str(expect(await client.send(request), 202).json()["write_id"])
        return self.last_write

    async def update(self, client: RawHttpClient, number: int) -> str:
        path = f"/executions/{self.executions[number]}"
        request = client.request("PATCH", path, {"name": f"n{next(self.bench.names)}"})
        expect(await client.send(request), 200)
        return ""

    async def drained(self) -> None:
        await drained(self.bench, self.last_write)


def urls(bench: Bench) -> tuple[str, str, str]:
    ready = bench.system.ready
    baseline = f"http://{HOST}:{bench.system.ports.base + BASELINE_OFFSET}"
    return ready["sidecar"], ready["users"]["owner"]["token"], baseline


async def writers(bench: Bench, rounds: int, count: int) -> Section:
    """Acknowledgements of 1, 16 and 64 writers during delivery."""
    sidecar_url, token, baseline_url = urls(bench)
    executions = [await bench.new_execution() for _ in range(max(WRITERS))]
    variants = Variants(bench, executions)
    shown: list[Measurement] = []
    goals: list[Goal] = []
    statements_per_1000: list[float] = []
    for number in WRITERS:
        each = max(5, count // number)
        async with (
            clients(bench, sidecar_url, token, number) as to_sidecar,
            clients(bench, baseline_url, None, number) as to_baseline,
        ):

            async def acknowledge(
                writing: list[RawHttpClient] = to_sidecar, each: int = each
            ) -> list[float]:
                await metrics_scrape.reset_statements(bench.direct)
                started_at = time.perf_counter()
                samples = await write_at_once(writing, each, variants.durable)
                rate = len(samples) / (time.perf_counter() - started_at)
                await variants.drained()
                if len(writing) == 16:
                    sent = await metrics_scrape.statements_of(bench.direct, CENTRAL_ROLE)
                    statements_per_1000.append(sent / len(samples) * 1000)
                return [rate, *samples]

            async def update(
                writing: list[RawHttpClient] = to_baseline, each: int = each
            ) -> list[float]:
                started_at = time.perf_counter()
                samples = await write_at_once(writing, each, variants.update)
                return [len(samples) / (time.perf_counter() - started_at), *samples]

            await write_at_once(to_sidecar, 5, variants.durable)
            await write_at_once(to_baseline, 5, variants.update)
            await variants.drained()
            taken = await interleaved([acknowledge, update], rounds)
        for name, variant in zip(("the sidecar", "HTTP UPDATE"), taken, strict=True):
            latencies = [samples[1:] for samples in variant]
            flat = sorted(sample for samples in latencies for sample in samples)
            p99 = flat[min(len(flat) - 1, round(0.99 * len(flat)))]
            shown.append(
                Measurement(f"{name}, {number} writers (p99 {p99:.0f} µs)", "µs", latencies)
            )
            shown.append(
                Measurement(f"{name}, {number} writers", "a second", [[s[0]] for s in variant])
            )
        if number == 16:
            ratios = [theirs[0] / mine[0] for mine, theirs in zip(*taken, strict=True)]
            name = "HTTP UPDATE / acknowledgements a second, 16 writers"
            goals.append(Goal(name, Quartiles.of(ratios), 1 / 1.5, "x", 2))
    steady = Quartiles.of(statements_per_1000)
    goals.append(Goal("statements per 1,000 writes, 16 writers", steady, 200, "", 0))
    return Section(
        "Many writers",
        "As above with 1, 16 and 64 keep-alive connections of one client process, each writing to "
        "an execution of its own, one write after the other; the baseline has 10 connections to "
        "the database. Client, services and Postgres share the cores.",
        shown,
        goals,
    )


async def backlog(bench: Bench, rounds: int, count: int) -> Section:
    """Delivery of writes that were spooled while central hung, against one UPDATE per call."""
    sidecar_url, token, baseline_url = urls(bench)
    writing = 16
    executions = [await bench.new_execution() for _ in range(writing)]
    variants = Variants(bench, executions)
    each = max(1, count // writing)
    statements_per_1000: list[float] = []

    async def measured(service_pid: int, work: Awaitable[object]) -> list[float]:
        """Microseconds per write: wall clock, CPU of the service, CPU of Postgres."""
        postgres_pid = bench.system.processes["postgres"].pid
        service, postgres = cpu_us([service_pid]), cpu_us(with_children(postgres_pid))
        started_at = time.perf_counter()
        await work
        spent_us = (
            (time.perf_counter() - started_at) * 1e6,
            used_us(service, cpu_us([service_pid])),
            used_us(postgres, cpu_us(with_children(postgres_pid))),
        )
        return [spent / (each * writing) for spent in spent_us]

    async with (
        clients(bench, sidecar_url, token, writing) as to_sidecar,
        clients(bench, baseline_url, None, writing) as to_baseline,
    ):

        async def drain() -> list[float]:
            central_pid = bench.system.processes["central"].pid
            with stopped(central_pid):
                await write_at_once(to_sidecar, each, variants.durable)
            await metrics_scrape.reset_statements(bench.direct)
            spent = await measured(central_pid, variants.drained())
            sent = await metrics_scrape.statements_of(bench.direct, CENTRAL_ROLE)
            statements_per_1000.append(sent / (each * writing) * 1000)
            return spent

        async def update() -> list[float]:
            return await measured(
                bench.baseline_pid, write_at_once(to_baseline, each, variants.update)
            )

        # The token of these clients is new to the sidecar, which has central authorize it once.
        await write_at_once(to_sidecar, 1, variants.durable)
        await variants.drained()
        drained_, updated = await interleaved([drain, update], rounds)
    names = ("on the clock", "CPU of the service", "CPU of Postgres")
    shown = [
        Measurement(f"{variant}: {name} per write", "µs", [[spent[place]] for spent in rounds_])
        for variant, rounds_ in (("backlog", drained_), ("HTTP UPDATE", updated))
        for place, name in enumerate(names)
    ]
    service, postgres = shown[1].ratios_to(shown[4]), shown[2].ratios_to(shown[5])
    return Section(
        "A draining backlog",
        f"{each * writing} writes to {writing} executions, made durable while central was stopped "
        "(SIGSTOP); from SIGCONT until the last is committed. Against as many HTTP calls with one "
        "committed UPDATE each, 16 at once. CPU as the kernel counts it.",
        shown,
        [
            Goal("central's CPU per write / HTTP UPDATE's", service, 1 / 15, "x", 3),
            Goal("Postgres' CPU per write / HTTP UPDATE's", postgres, 1 / 10, "x", 3),
            Goal(
                "statements per 1,000 writes, backlog",
                Quartiles.of(statements_per_1000),
                20,
                "",
                1,
            ),
        ],
    )


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process is stopped for the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
