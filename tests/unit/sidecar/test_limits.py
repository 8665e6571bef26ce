"""A runaway program fills neither the spool nor the time of others, and its run can still end."""

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
from tests.unit.sidecar.spooling import EID, OTHER_EID, OTHER_USER, USER, Spools, update

MIB = 2**20


class Limited:
    """A spool behind limits, by a clock that is set by hand."""

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

    async def written(self, new: NewEntry, most: int = 10_000) -> int:
        """How many are let through before one is not."""
        for count in range(most):
            try:
                await self.write(new)
            except RateLimited:
                return count
        return most

    async def bind(self, execution_id: int, user_id: int) -> None:
        await self.spool.record_binding(
            Binding(execution_id, 1, 1, user_id, None, created_here=True),
            Grant(bytes([user_id]), execution_id, user_id, 2**31),
        )


@pytest.fixture
async def spool(tmp_path: Path) -> Any:
    spools = Spools(tmp_path, SpoolLimits(MIB))
    yield await spools.open()
    await spools.close()


async def test_a_user_writes_a_burst_and_then_at_the_steady_rate(spool: Spool) -> None:
    limited = Limited(spool, writes_per_s=2.0, burst_s=5.0)

    assert await limited.written(update(name="x")) == 10
    with pytest.raises(RateLimited) as refused:
        await limited.write(update(name="x"))
    assert refused.value.headers["Retry-After"] == "1"

    limited.now += 1.0
    assert await limited.written(update(name="x")) == 2
    assert await limited.written(update(OTHER_EID, OTHER_USER, name="x")) == 10


async def test_bytes_count_too(spool: Spool) -> None:
    limited = Limited(spool, write_bytes_per_s=1000.0, burst_s=10.0)

    assert 3 <= await limited.written(update(result="x" * 2000)) <= 5


async def test_a_run_ends_whatever_its_program_did_before_but_not_for_ever(spool: Spool) -> None:
    limited = Limited(spool, writes_per_s=1.0, burst_s=1.0)
    ending = update(priority=Priority.TERMINAL, status="COMPLETED")
    while await limited.written(update(name="x")):
        pass

    assert await limited.written(ending) == EXEMPT_STATUSES
    other_run = update(OTHER_EID, priority=Priority.TERMINAL, status="FAILED")
    assert await limited.written(other_run) == EXEMPT_STATUSES


async def test_a_user_alone_may_fill_the_spool(spool: Spool) -> None:
    limited = Limited(spool)
    await limited.bind(EID, USER)
    large = update(result="x" * 10_000)

    while spool.queues.size_bytes < 0.8 * spool.high_water_bytes:
        await limited.write(large)


async def test_of_two_users_one_that_fills_the_spool_is_held_at_half(spool: Spool) -> None:
    limited = Limited(spool)
    await limited.bind(EID, USER)
    await limited.bind(OTHER_EID, OTHER_USER)
    large = update(result="x" * 10_000)

    await limited.written(large)

    assert 0.5 <= spool.queues.size_bytes / spool.high_water_bytes <= 0.52
    await limited.write(update(OTHER_EID, OTHER_USER, result="x" * 10_000))
    await limited.write(update(priority=Priority.TERMINAL, status="COMPLETED"))
    assert _counted(limited, "share") == 1


@pytest.mark.parametrize("user_id", [1, None])
async def test_calls_under_way_are_counted_by_user_and_given_back(
    spool: Spool, user_id: int | None
) -> None:
    limited = Limited(spool, concurrent_calls=2)
    call = limited.limits.call

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

    assert not limited.limits._under_way


async def test_what_is_remembered_is_bounded(spool: Spool) -> None:
    limited = Limited(spool, writes_per_s=1.0, burst_s=1.0)

    for number in range(1, 30_000):
        limited.limits.check_write(update(number, number, Priority.TERMINAL, status="FAILED"))
        limited.limits.check_write(update(number, number, name="x"))

    for rate in (limited.limits._writes, limited.limits._exempt):
        assert len(rate._tat) == 10_000


def _counted(limited: Limited, what: str) -> float | None:
    return limited.metrics.registry.get_sample_value(
        "sidecar_rate_limited_calls_total", {"limit": what}
    )
