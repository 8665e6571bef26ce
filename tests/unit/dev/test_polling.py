"""Polling, by a clock that is advanced by hand."""

from dev.polling import wait_until


class Clock:
    """Time passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_it_asks_until_the_condition_holds() -> None:
    clock = Clock()

    assert wait_until(lambda: clock.now_s >= 1, 5, clock=clock, sleep=clock.sleep)

    assert 1 <= clock.now_s < 1.1


def test_it_gives_up_in_time() -> None:
    clock = Clock()

    assert not wait_until(lambda: False, 5, clock=clock, sleep=clock.sleep)

    assert 5 <= clock.now_s < 5.1


def test_it_asks_once_without_any_time() -> None:
    assert wait_until(lambda: True, 0)
