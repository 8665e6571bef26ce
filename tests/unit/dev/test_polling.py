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


def test_false_after_the_timeout() -> None:
    clock = Clock()

    assert not wait_until(lambda: False, 5, clock=clock, sleep=clock.sleep)

    assert 5 <= clock.now_s < 5.1


def test_condition_is_checked_once_without_any_time() -> None:
    assert wait_until(lambda: True, 0)
