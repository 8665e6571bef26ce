"""The closer's decisions, and its rhythm: a pure function, and a clock that is set by hand."""

from collections.abc import Mapping
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry

from central.jobs.orphan_closer import (
    BEATS_PER_LEASE,
    CHUNK,
    MAX_LAPSED_FRACTION,
    MIN_SUSPICIOUS,
    OrphanCloser,
    Plan,
    chunks,
    plan,
)
from central.metrics import Metrics
from central.problems import DatabaseUnavailable
from central.store.close_executions import Reason
from central.store.orphans import Orphans

LEASE_S = 90.0


def silent(count: int, first: int = 1) -> dict[int, Reason]:
    return dict.fromkeys(range(first, first + count), Reason.LEASE_LAPSED)


OVER = {901: Reason.SUPERSEDED_BOOT, 902: Reason.UNIT_TERMINATED}


def decided(orphans: Orphans, uninterrupted_s: float = LEASE_S) -> Plan:
    return plan(orphans, uninterrupted_s=uninterrupted_s, lease_s=LEASE_S)


@pytest.mark.parametrize(
    ("unheard_count", "lease_count", "is_held"),
    [
        (1, 1, False),
        (3, 3, False),
        (4, 19, True),
        (4, 20, False),
        (20, 100, False),
        (21, 100, True),
    ],
)
def test_more_than_a_few_and_a_fifth_is_held_back(
    unheard_count: int, lease_count: int, is_held: bool
) -> None:
    orphans = Orphans(silent(1), {}, unheard_count, lease_count)

    assert decided(orphans) == (Plan({}, 1) if is_held else Plan(silent(1)))


@pytest.mark.parametrize("uninterrupted_s", [0.0, 89.9])
def test_silence_is_believed_after_a_lease_of_service_only(uninterrupted_s: float) -> None:
    assert decided(Orphans(silent(2), {}, 2), uninterrupted_s) == Plan({})


@pytest.mark.parametrize("silent_count", [0, 50])
def test_what_says_itself_that_it_is_over_is_always_believed(silent_count: int) -> None:
    orphans = Orphans(silent(silent_count), OVER, silent_count, 50)

    assert decided(orphans, 0.0).closing == OVER
    assert decided(orphans).closing == OVER


def test_chunks_are_bounded_and_complete() -> None:
    parts = list(chunks(silent(205), 100))

    assert [len(part) for part in parts] == [100, 100, 5]
    assert {eid: reason for part in parts for eid, reason in part.items()} == silent(205)
    assert list(chunks({}, 100)) == []


class Enough(Exception):
    """The test has seen what it wanted."""


class Played:
    """Continuity, orphans and clock at once: they note when they were asked."""

    def __init__(self, until_s: float) -> None:
        self.now_s = 1000.0
        self.until_s = 1000.0 + until_s
        self.beats: list[float] = []
        self.looks: list[float] = []
        self.is_there = True
        self.elsewhere = False
        self.closed: list[int] = []
        self.silent_count = 2
        self.close_s = 0.0

    async def beat(self) -> float:
        self.beats.append(self.now_s)
        if not self.is_there:
            raise DatabaseUnavailable("down", retry_after_s=1)
        return self.now_s - 1000.0

    async def look(self, few: int, one_in: int) -> Orphans | None:
        assert (few, one_in) == (MIN_SUSPICIOUS, MAX_LAPSED_FRACTION)
        self.looks.append(self.now_s)
        return None if self.elsewhere else Orphans(silent(self.silent_count), {}, 0)

    async def close(self, reasons: Mapping[int, Reason]) -> list[int] | None:
        self.closed += reasons
        self.now_s += self.close_s
        return list(reasons)

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds
        if self.now_s > self.until_s:
            raise Enough


def closer(played: Played, *, period_s: float = 10.0, is_enabled: bool = True) -> OrphanCloser:
    return OrphanCloser(
        played,  # type: ignore[arg-type] # plays three parts
        played,  # type: ignore[arg-type]
        Metrics(CollectorRegistry()),
        lease_s=LEASE_S,
        period_s=period_s,
        is_enabled=is_enabled,
        clock=lambda: played.now_s,
        sleep=played.sleep,
        uniform=lambda low, high: high,
    )


def gaps(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(moments)]


@pytest.mark.parametrize("period_s", [0.5, 7.0, 10.0, 60.0])
async def test_it_beats_at_once_and_passes_after_a_lease_each_period(period_s: float) -> None:
    played = Played(until_s=400)

    with pytest.raises(Enough):
        await closer(played, period_s=period_s).run()

    assert played.beats[0] == 1000.0
    assert max(gaps(played.beats)) <= LEASE_S / BEATS_PER_LEASE
    assert played.looks[0] == pytest.approx(1000.0 + LEASE_S)
    assert max(gaps(played.looks)) == pytest.approx(period_s)
    assert min(gaps(played.looks)) == pytest.approx(period_s)


async def test_switched_off_it_only_beats() -> None:
    played = Played(until_s=400)

    with pytest.raises(Enough):
        await closer(played, is_enabled=False).run()

    assert len(played.beats) > 400 / (LEASE_S / BEATS_PER_LEASE)
    assert played.looks == []


async def test_without_a_database_it_waits_and_closes_nothing() -> None:
    played = Played(until_s=400)
    played.is_there = False

    with pytest.raises(Enough):
        await closer(played).run()

    assert played.looks == []
    assert len(played.beats) < 60  # it does not spin


async def test_while_another_replica_is_at_it_nothing_is_closed() -> None:
    played = Played(until_s=0)
    played.elsewhere = True

    assert await closer(played).run_once(LEASE_S) == 0

    assert played.closed == []


async def test_a_long_pass_beats_as_often_as_the_loop_does() -> None:
    """Else a single replica would take its own work for an outage."""
    played = Played(until_s=0)
    played.silent_count, played.close_s = 30 * CHUNK, 4.0

    assert await closer(played).run_once(LEASE_S) == 30 * CHUNK

    assert len(played.beats) > 8
    assert max(gaps([1000.0, *played.beats])) < 2 * LEASE_S / BEATS_PER_LEASE
