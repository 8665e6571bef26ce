"""Spools of the tests' own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sidecar.delivery.delivery import Delivery
from sidecar.metrics import Metrics
from sidecar.spool.limits import SpoolLimits
from tests.unit.sidecar.delivering import Bench, ScriptedCentral, Told
from tests.unit.sidecar.spooling import Spools


@pytest.fixture
async def spools(tmp_path: Path) -> AsyncIterator[Spools]:
    async with AsyncExitStack() as stack:
        spools = Spools(tmp_path / "spool", SpoolLimits(64 * 1024 * 1024))
        stack.push_async_callback(spools.close)
        yield spools


@pytest.fixture
async def bench(spools: Spools) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        spool = await spools.open()
        central, metrics, waits_s = ScriptedCentral(), Metrics(), list[float]()

        def no_wait(low: float, high: float) -> float:
            waits_s.append(high)
            return 0.0

        delivery = Delivery(
            spool,
            central,
            metrics,
            Told(),
            monotonic=lambda: spools.now_s,
            uniform=no_wait,
        )
        bench = Bench(spool, central, delivery, metrics, waits_s)
        stack.push_async_callback(bench.stop)
        yield bench
