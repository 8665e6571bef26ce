"""Acknowledgements are as fast while central is unavailable as while it is up."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from statistics import median, quantiles
from typing import TypeAlias

import pytest

from dev.bench.raw_http_client import RawHttpClient
from tests.databases import Database
from tests.journeys.crashing.processes import Sidecar
from tests.journeys.crashing.proxy import Proxy, proxy_to
from tests.journeys.crashing.scenario import Scenario, scenario

MAX_RATIO = 2.0
PHASE_S = 0.5
ROUNDS, MAX_ROUNDS = 5, 20  # a busy machine may need more of them until noise evens out
SHORT_TIMEOUT = {"SIDECAR_UPSTREAM_TIMEOUT_S": "0.2"}  # so that a phase sees sends begin and fail

Outage: TypeAlias = Callable[[Scenario, Proxy], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def stopped(it: Scenario, _: Proxy) -> AsyncIterator[None]:
    """Central is stopped: it accepts connections and never responds."""
    with it.central.process.stopped():
        yield


@asynccontextmanager
async def down(it: Scenario, _: Proxy) -> AsyncIterator[None]:
    """Central is killed: connections are refused."""
    await it.central.process.kill()
    yield
    it.central.start()
    await it.central.until_ready()


@asynccontextmanager
async def black_hole(_: Scenario, proxy: Proxy) -> AsyncIterator[None]:
    """The network drops everything."""
    proxy.silence()
    yield
    proxy.heal()


async def acknowledge_times(sidecar: Sidecar) -> list[float]:
    """The acknowledgement times of one phase's writes, in seconds."""
    times = []
    ends_at = time.perf_counter() + PHASE_S
    async with RawHttpClient(sidecar.url, sidecar.token) as line:
        path = f"/v1/executions/{sidecar.execution_ids[0]}"
        request = line.request("PATCH", path, {"bookmarked": True})
        while (started_at := time.perf_counter()) < ends_at:
            assert (await line.send(request)).status == 202
            times.append(time.perf_counter() - started_at)
    return times


async def flush(sidecar: Sidecar) -> None:
    """Empties the backlog, whose delivery would slow the next phase."""
    async with RawHttpClient(sidecar.url, sidecar.token) as line:
        assert (await line.send(line.request("POST", "/v1/flush?timeout=60"))).status == 200


@pytest.mark.parametrize("outage", [stopped, down, black_hole])
async def test_acknowledgements_stay_fast_while_central_is_unavailable(
    database: Database, outage: Outage
) -> None:
    normal: list[float] = []
    unavailable: list[float] = []
    async with scenario(database, seed=1) as it, proxy_to(it.central, chance=it.chance) as proxy:
        sidecar = await it.add_sidecar(forked=False, central_url=proxy.url, settings=SHORT_TIMEOUT)

        async with it.writing():
            for done in range(1, MAX_ROUNDS + 1):
                await flush(sidecar)
                normal += await acknowledge_times(sidecar)
                async with outage(it, proxy):
                    unavailable += await acknowledge_times(sidecar)
                ratios = [p99(unavailable) / p99(normal), median(unavailable) / median(normal)]
                if done >= ROUNDS and max(ratios) <= MAX_RATIO:
                    break

        assert max(ratios) <= MAX_RATIO, f"p99 and median, in s: {describe(unavailable, normal)}"


def p99(times: list[float]) -> float:
    return quantiles(times, n=100)[98]


def describe(*phases: list[float]) -> list[tuple[float, float]]:
    return [(p99(times), median(times)) for times in phases]
