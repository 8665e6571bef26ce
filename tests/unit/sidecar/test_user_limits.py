"""Rates, share of the spool and concurrent calls are limited by user; a run can always end."""

import asyncio
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


async def test_concurrent_calls_are_counted_by_user_and_released(spool: Spool) -> None:
    limited, user_id = Limited(spool, concurrent_calls=2), 1
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


async def test_calls_with_unknown_tokens_wait_in_their_order(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited, served = Limited(spool, concurrent_calls=1), list[str]()
    call, ended = limited.limits.unknown_call_slot, asyncio.Event()

    async def make(name: str) -> None:
        async with call("GET"):
            served.append(name)
            await ended.wait()

    strangers = [asyncio.create_task(make(f"stranger {number}")) for number in range(3)]
    await asyncio.sleep(0)
    first = asyncio.create_task(make("a user's first"))
    await asyncio.sleep(0)
    strangers.append(asyncio.create_task(make("stranger 3")))
    async with call("PATCH"):
        pass
    assert served == ["stranger 0"]
    ended.set()
    await asyncio.gather(first, *strangers)

    assert served.index("a user's first") == 3
    assert not _refused_count(limited, "calls")

    monkeypatch.setattr("sidecar.user_limits.UNKNOWN_TOKEN_WAIT_S", 0.01)
    async with call("GET"):
        with pytest.raises(RateLimited):
            await make("too late")
    assert _refused_count(limited, "calls") == 1
    assert not limited.limits._concurrent_calls._active


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
