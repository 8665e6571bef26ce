"""The orphan closer's decisions (a pure function) and its schedule (a clock set by the test)."""

from collections.abc import Mapping
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry

from central.jobs.orphan_closer import (
    CHUNK,
    HEARTBEATS_PER_LEASE,
    LAPSED_DIVISOR,
    MIN_SUSPICIOUS,
    OrphanCloser,
    Plan,
    chunks,
    plan,
)
from central.metrics import Metrics
from central.problems import DatabaseUnavailable
from central.store.failures import StatementError
from central.store.orphans import CloseReason, Orphans

LEASE_S = 90.0


def silent(count: int, first: int = 1) -> dict[int, CloseReason]:
    return dict.fromkeys(range(first, first + count), CloseReason.LEASE_LAPSED)


OVER = {901: CloseReason.SUPERSEDED_BOOT, 902: CloseReason.UNIT_TERMINATED}


def decide(orphans: Orphans, uninterrupted_s: float = LEASE_S) -> Plan:
    return plan(orphans, uninterrupted_s=uninterrupted_s, lease_s=LEASE_S)


@pytest.mark.parametrize(
    ("unexplained_count", "lease_count", "is_withheld"),
    [
        (1, 1, False),
        (3, 3, False),
        (4, 19, True),
        (4, 20, False),
        (20, 100, False),
        (21, 100, True),
    ],
)
def test_more_than_three_and_a_fifth_of_the_leases_are_withheld(
    unexplained_count: int, lease_count: int, is_withheld: bool
) -> None:
    orphans = Orphans(silent(1), {}, unexplained_count, lease_count)

    assert decide(orphans) == (Plan({}, 1) if is_withheld else Plan(silent(1)))


@pytest.mark.parametrize("uninterrupted_s", [0.0, 89.9])
def test_lapsed_leases_are_ignored_before_one_lease_of_service(uninterrupted_s: float) -> None:
    assert decide(Orphans(silent(2), {}, 2), uninterrupted_s) == Plan({})


@pytest.mark.parametrize("silent_count", [0, 50])
def test_ended_units_and_superseded_boots_are_closed_at_any_number(silent_count: int) -> None:
    orphans = Orphans(silent(silent_count), OVER, silent_count, 50)

    assert decide(orphans, 0.0).closing == OVER
    assert decide(orphans).closing == OVER


def test_chunks_are_bounded_and_complete() -> None:
    pieces = list(chunks(silent(205), 100))

    assert [len(piece) for piece in pieces] == [100, 100, 5]
    assert {eid: reason for piece in pieces for eid, reason in piece.items()} == silent(205)
    assert list(chunks({}, 100)) == []


class TimeIsUp(Exception):
    """Ends the loop at the time that the test has set."""


class FakeStores:
    """Availability, orphans and clock in one; records when each is called."""

    def __init__(self, until_s: float) -> None:
        self.now_s = 1000.0
        self.until_s = 1000.0 + until_s
        self.heartbeats: list[float] = []
        self.scans: list[float] = []
        self.is_available = True
        self.is_locked = False
        self.closed: list[int] = []
        self.silent_count = 2
        self.close_s = 0.0
        self.error: Exception | None = None

    async def heartbeat(self) -> float:
        self.heartbeats.append(self.now_s)
        if not self.is_available:
            raise DatabaseUnavailable("down", retry_after_s=1)
        return self.now_s - 1000.0

    async def scan(self, min_suspicious: int, lapsed_divisor: int) -> Orphans | None:
        assert (min_suspicious, lapsed_divisor) == (MIN_SUSPICIOUS, LAPSED_DIVISOR)
        self.scans.append(self.now_s)
        return None if self.is_locked else Orphans(silent(self.silent_count), {}, 0)

    async def close(self, reasons: Mapping[int, CloseReason]) -> list[int] | None:
        if self.error is not None:
            raise self.error
        self.closed += reasons
        self.now_s += self.close_s
        return list(reasons)

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds
        if self.now_s > self.until_s:
            raise TimeIsUp


def closer(fakes: FakeStores, *, period_s: float = 10.0, is_enabled: bool = True) -> OrphanCloser:
    return OrphanCloser(
        fakes,  # type: ignore[arg-type] # plays three pieces
        fakes,  # type: ignore[arg-type]
        Metrics(CollectorRegistry()),
        lease_s=LEASE_S,
        period_s=period_s,
        is_enabled=is_enabled,
        clock=lambda: fakes.now_s,
        sleep=fakes.sleep,
        uniform=lambda low, high: high,
    )


def intervals(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize("period_s", [0.5, 7.0, 10.0, 60.0])
async def test_heartbeats_start_at_once_and_passes_after_one_lease(period_s: float) -> None:
    fakes = FakeStores(until_s=400)

    with pytest.raises(TimeIsUp):
        await closer(fakes, period_s=period_s).run()

    assert fakes.heartbeats[0] == 1000.0
    assert max(intervals(fakes.heartbeats)) <= LEASE_S / HEARTBEATS_PER_LEASE
    assert fakes.scans[0] == pytest.approx(1000.0 + LEASE_S)
    assert max(intervals(fakes.scans)) == pytest.approx(period_s)
    assert min(intervals(fakes.scans)) == pytest.approx(period_s)


async def test_disabled_closer_sends_heartbeats_only() -> None:
    fakes = FakeStores(until_s=400)

    with pytest.raises(TimeIsUp):
        await closer(fakes, is_enabled=False).run()

    assert len(fakes.heartbeats) > 400 / (LEASE_S / HEARTBEATS_PER_LEASE)
    assert fakes.scans == []


async def test_unavailable_database_closes_nothing() -> None:
    fakes = FakeStores(until_s=400)
    fakes.is_available = False

    with pytest.raises(TimeIsUp):
        await closer(fakes).run()

    assert fakes.scans == []
    assert len(fakes.heartbeats) < 60  # no busy loop


async def test_a_statement_that_fails_ends_the_pass_and_not_the_closer() -> None:
    fakes = FakeStores(until_s=400)
    fakes.error = StatementError.new({"C": "P0001", "M": "not this one"})

    with pytest.raises(TimeIsUp):
        await closer(fakes).run()

    assert len(fakes.scans) > 1


async def test_lock_held_by_another_replica_closes_nothing() -> None:
    fakes = FakeStores(until_s=0)
    fakes.is_locked = True

    assert await closer(fakes).run_once(LEASE_S) == 0

    assert fakes.closed == []


async def test_long_pass_sends_heartbeats() -> None:
    """Or else a single replica would count its own pass as an outage."""
    fakes = FakeStores(until_s=0)
    fakes.silent_count, fakes.close_s = 30 * CHUNK, 4.0

    assert await closer(fakes).run_once(LEASE_S) == 30 * CHUNK

    assert len(fakes.heartbeats) > 8
    assert max(intervals([1000.0, *fakes.heartbeats])) < 2 * LEASE_S / HEARTBEATS_PER_LEASE
