"""A rate limit grants its burst and its steady rate, whenever calls come, in bounded memory."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.http.rate_limit import GcraLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_granted_then_the_steady_rate() -> None:
    clock = Clock()
    limiter = GcraLimiter(2.0, 5.0, 10, monotonic=clock)

    assert [limiter.acquire("a") for _ in range(10)] == [0.0] * 10
    assert limiter.acquire("a") == 0.5

    clock.now += 0.5
    assert limiter.acquire("a") == 0.0
    assert limiter.acquire("a") == 0.5


def test_a_call_after_the_returned_wait_is_granted() -> None:
    clock = Clock()
    limiter = GcraLimiter(3.0, 1.0, 10, monotonic=clock)
    while not (wait_s := limiter.acquire("a", 2)):
        pass

    clock.now += wait_s + 1e-9

    assert limiter.acquire("a", 2) == 0.0


def test_keys_have_separate_limits() -> None:
    limiter = GcraLimiter(1.0, 1.0, 10, monotonic=Clock())

    assert (limiter.acquire("a"), limiter.acquire("a") > 0, limiter.acquire("b")) == (
        0.0,
        True,
        0.0,
    )


def test_an_amount_above_the_burst_is_granted_to_an_idle_key_in_advance() -> None:
    clock = Clock()
    limiter = GcraLimiter(10.0, 1.0, 10, monotonic=clock)

    assert limiter.acquire("a", 100) == 0.0
    assert limiter.acquire("a", 1) == pytest.approx(9.1)

    clock.now += 9.2
    assert limiter.acquire("a", 1) == 0.0


def test_zero_is_no_limit_and_tracks_no_key() -> None:
    limiter = GcraLimiter(0.0, 1.0, 1, monotonic=Clock())

    assert [limiter.acquire(n, 1e9) for n in range(100)] == [0.0] * 100
    assert len(limiter._tat) == 0


def test_tracked_keys_are_bounded() -> None:
    limiter = GcraLimiter(1.0, 1.0, 100, monotonic=Clock())

    for n in range(10_000):
        limiter.acquire(n)

    assert len(limiter._tat) == 100


@settings(deadline=None)
@given(
    st.floats(0.1, 100),
    st.floats(0.0, 10),
    st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 5)), min_size=1, max_size=60),
)
def test_no_window_grants_more_than_rate_and_burst(
    per_s: float, burst_s: float, calls: list[tuple[float, float]]
) -> None:
    """Save for one call beyond the burst: an amount above it would never be granted."""
    clock = Clock()
    limiter = GcraLimiter(per_s, burst_s, 10, monotonic=clock)
    granted = []
    for pause_s, amount in calls:
        clock.now += pause_s
        if not limiter.acquire("a", amount):
            granted.append((clock.now, amount))

    largest = max((amount for _, amount in granted), default=0.0)
    for first, (begun_at, _) in enumerate(granted):
        used = 0.0
        for at, amount in granted[first:]:
            used += amount
            allowed = per_s * (at - begun_at + burst_s) + largest
            assert used <= allowed * (1 + 1e-9) + 1e-6
