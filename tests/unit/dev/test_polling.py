"""Polling, with a clock that is advanced by hand."""

from dev.polling import wait_until


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_condition_is_checked_until_it_holds() -> None:
    clock = Clock()

    assert wait_until(lambda: clock.now_s >= 1, 5, clock=clock, sleep=clock.sleep)

    assert 1 <= clock.now_s < 1.1


def test_a_long_wait_checks_at_most_ten_times_a_second() -> None:
    clock, checked_at = Clock(), list[float]()

    def check() -> bool:
        checked_at.append(clock.now_s)
        return False

    wait_until(check, 60, clock=clock, sleep=clock.sleep)

    late_count = sum(at_s > 2 for at_s in checked_at)
    assert checked_at[1] < 0.02
    assert late_count <= 600


def test_false_after_the_timeout() -> None:
    clock = Clock()

    assert not wait_until(lambda: False, 5, clock=clock, sleep=clock.sleep)

    assert 5 <= clock.now_s < 5.1


def test_condition_is_checked_once_without_any_time() -> None:
    assert wait_until(lambda: True, 0)
