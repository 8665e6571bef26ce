"""Rates, share of the spool and concurrent calls are limited by user; a run can always end."""

from pathlib import Path
from typing import Any

import pytest

from sidecar.metrics import Metrics
from sidecar.problems import RateLimited
from sidecar.settings import LimitSettings
from sidecar.spool.bindings import Binding, Grant
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.entry import NewEntry, Priority
from sidecar.spool.spool import Spool
from sidecar.user_limits import EXEMPT_STATUSES, UserLimits
from tests.unit.sidecar.spool_fixtures import EID, OTHER_EID, OTHER_USER, USER, Spools, update

MIB = 2**20


class Limited:
    """A spool behind limits, with a clock set by hand."""

    def __init__(self, spool: Spool, **settings: Any) -> None:
        self.now = 0.0
        self.spool = spool
        self.metrics = Metrics()
        self.limits = UserLimits(
            LimitSettings(**({"writes_per_s": 0.0, "write_bytes_per_s": 0.0} | settings)),
            spool,
            self.metrics,
            monotonic=lambda: self.now,
        )

    async def write(self, new: NewEntry) -> None:
        self.limits.check_write(new)
        await self.spool.append(new)

    async def write_until_refused(self, new: NewEntry, max_count: int = 10_000) -> int:
        """The number of writes accepted."""
        for count in range(max_count):
            try:
                await self.write(new)
            except RateLimited:
                return count
        return max_count

    async def bind(self, execution_id: int, user_id: int) -> None:
        await self.spool.bindings.record(
            Binding(execution_id, 1, 1, user_id, None, created_here=True),
            Grant(bytes([user_id]), execution_id, user_id, 2**31),
        )


@pytest.fixture
async def spool(tmp_path: Path) -> Any:
    spools = Spools(tmp_path, SpoolLimits(MIB))
    yield await spools.open()
    await spools.close()


async def test_a_user_may_write_a_burst_then_at_the_steady_rate(spool: Spool) -> None:
    limited = Limited(spool, writes_per_s=2.0, burst_s=5.0)

    assert await limited.write_until_refused(update(name="x")) == 10
    with pytest.raises(RateLimited) as refused:
        await limited.write(update(name="x"))
    assert refused.value.headers["Retry-After"] == "1"

    limited.now += 1.0
    assert await limited.write_until_refused(update(name="x")) == 2
    assert await limited.write_until_refused(update(OTHER_EID, OTHER_USER, name="x")) == 10


async def test_bytes_are_limited_too(spool: Spool) -> None:
    limited = Limited(spool, write_bytes_per_s=1000.0, burst_s=10.0)

    assert 3 <= await limited.write_until_refused(update(result="x" * 2000)) <= 5


async def test_terminal_statuses_are_exempt_up_to_a_limit_per_execution(spool: Spool) -> None:
    limited = Limited(spool, writes_per_s=1.0, burst_s=1.0)
    ending = update(priority=Priority.TERMINAL, status="COMPLETED")
    while await limited.write_until_refused(update(name="x")):
        pass

    assert await limited.write_until_refused(ending) == EXEMPT_STATUSES
    other_run = update(OTHER_EID, priority=Priority.TERMINAL, status="FAILED")
    assert await limited.write_until_refused(other_run) == EXEMPT_STATUSES


async def test_a_single_user_may_fill_the_spool(spool: Spool) -> None:
    limited = Limited(spool)
    await limited.bind(EID, USER)
    large = update(result="x" * 10_000)

    while spool.queues.size_bytes < 0.8 * spool.high_water_bytes:
        await limited.write(large)


async def test_with_another_user_bound_one_user_fills_half_of_the_spool(spool: Spool) -> None:
    limited = Limited(spool)
    await limited.bind(EID, USER)
    await limited.bind(OTHER_EID, OTHER_USER)
    large = update(result="x" * 10_000)

    await limited.write_until_refused(large)

    assert 0.5 <= spool.queues.size_bytes / spool.high_water_bytes <= 0.52
    await limited.write(update(OTHER_EID, OTHER_USER, result="x" * 10_000))
    await limited.write(update(priority=Priority.TERMINAL, status="COMPLETED"))
    assert _refused_count(limited, "share") == 1


@pytest.mark.parametrize("user_id", [1, None])
async def test_concurrent_calls_are_counted_by_user_and_released(
    spool: Spool, user_id: int | None
) -> None:
    limited = Limited(spool, concurrent_calls=2)
    call = limited.limits.call_slot

    def is_refused(method: str) -> bool:
        try:
            with call(user_id, method):
                return False
        except RateLimited:
            return True

    with call(user_id, "GET"), call(user_id, "POST"):
        assert is_refused("GET")
        with call(2, "GET"), call(user_id, "PATCH"), call(user_id, "PUT"):
            assert is_refused("PATCH")
    assert not is_refused("GET")
    assert not is_refused("PATCH")

    assert limited.limits._concurrent_calls._active == {}


async def test_tracked_keys_are_bounded(spool: Spool) -> None:
    limited = Limited(spool, writes_per_s=1.0, burst_s=1.0)

    for number in range(1, 30_000):
        limited.limits.check_write(update(number, number, Priority.TERMINAL, status="FAILED"))
        limited.limits.check_write(update(number, number, name="x"))

    for limiter in (limited.limits._writes, limited.limits._exempt_statuses):
        assert len(limiter._tat) == 10_000


def _refused_count(limited: Limited, limit: str) -> float | None:
    return limited.metrics.registry.get_sample_value(
        "sidecar_rate_limited_calls_total", {"limit": limit}
    )
