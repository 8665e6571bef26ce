"""A rate lets through what it says, whenever it comes, and forgets what is paid for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.http.rate_limit import Rate


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_granted_and_then_the_steady_rate() -> None:
    clock = Clock()
    rate = Rate(2.0, 5.0, 10, monotonic=clock)

    assert [rate.take("a") for _ in range(10)] == [0.0] * 10
    assert rate.take("a") == 0.5

    clock.now += 0.5
    assert rate.take("a") == 0.0
    assert rate.take("a") == 0.5


def test_who_waits_as_told_is_let_through() -> None:
    clock = Clock()
    rate = Rate(3.0, 1.0, 10, monotonic=clock)
    while not (wait_s := rate.take("a", 2)):
        pass

    clock.now += wait_s + 1e-9

    assert rate.take("a", 2) == 0.0


def test_keys_do_not_share() -> None:
    rate = Rate(1.0, 1.0, 10, monotonic=Clock())

    assert (rate.take("a"), rate.take("a") > 0, rate.take("b")) == (0.0, True, 0.0)


def test_more_than_a_burst_is_granted_to_who_has_used_nothing_and_paid_for_after() -> None:
    clock = Clock()
    rate = Rate(10.0, 1.0, 10, monotonic=clock)

    assert rate.take("a", 100) == 0.0
    assert rate.take("a", 1) == pytest.approx(9.1)

    clock.now += 9.2
    assert rate.take("a", 1) == 0.0


def test_no_rate_is_no_limit_and_remembers_nothing() -> None:
    rate = Rate(0.0, 1.0, 1, monotonic=Clock())

    assert [rate.take(n, 1e9) for n in range(100)] == [0.0] * 100
    assert len(rate._tat) == 0


def test_no_more_keys_are_remembered_than_said() -> None:
    rate = Rate(1.0, 1.0, 100, monotonic=Clock())

    for n in range(10_000):
        rate.take(n)

    assert len(rate._tat) == 100


@given(
    st.floats(0.1, 100),
    st.floats(0.0, 10),
    st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 5)), min_size=1, max_size=60),
)
def test_in_no_window_is_more_granted_than_rate_and_burst(
    per_s: float, burst_s: float, calls: list[tuple[float, float]]
) -> None:
    """One call may stand beyond the burst, as nothing larger than it would ever be granted."""
    clock = Clock()
    rate = Rate(per_s, burst_s, 10, monotonic=clock)
    granted = []
    for pause_s, amount in calls:
        clock.now += pause_s
        if not rate.take("a", amount):
            granted.append((clock.now, amount))

    largest = max((amount for _, amount in granted), default=0.0)
    for first, (begun_at, _) in enumerate(granted):
        used = 0.0
        for at, amount in granted[first:]:
            used += amount
            allowed = per_s * (at - begun_at + burst_s) + largest
            assert used <= allowed * (1 + 1e-9) + 1e-6
