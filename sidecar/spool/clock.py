"""The clock that dates writes: steady while the process lives, whatever happens to the machine's.

Only differences matter: central subtracts the age of a status from its own time. Both ends of that
age, and of every grace, are read here. The wall clock is read once, at start.
"""

from collections.abc import Callable


class MonotonicWallClock:
    def __init__(self, wall_clock: Callable[[], float], monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._zero_s = wall_clock() - monotonic()

    def now_ms(self) -> int:
        return int((self._zero_s + self._monotonic()) * 1000)
