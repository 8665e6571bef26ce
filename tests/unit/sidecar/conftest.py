"""Spools of the tests' own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from sidecar.spool.capacity import SpoolLimits
from tests.unit.sidecar.delivery_fixtures import DeliveryHarness, harness_on
from tests.unit.sidecar.spool_fixtures import Spools


@pytest.fixture
async def spools(tmp_path: Path) -> AsyncIterator[Spools]:
    async with AsyncExitStack() as stack:
        spools = Spools(tmp_path / "spool", SpoolLimits(64 * 1024 * 1024))
        stack.push_async_callback(spools.close)
        yield spools


@pytest.fixture
async def harness(spools: Spools) -> AsyncIterator[DeliveryHarness]:
    async with AsyncExitStack() as stack:
        harness = harness_on(spools, await spools.open())
        stack.push_async_callback(harness.stop)
        yield harness
