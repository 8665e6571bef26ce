"""When not to call central: backoff with full jitter, slow start, a circuit breaker.

Pure decisions: time and randomness are arguments, nothing here waits or sends.
"""

import random
from collections.abc import Callable

BYTE_LIMIT_GROWTH = 64
"""As a divisor, per delivered batch: about 45 batches until a limit has doubled."""


class Backoff:
    """The wait before the next attempt: uniform between 0 and a doubling limit (full jitter)."""

    def __init__(
        self,
        base_s: float,
        limit_s: float,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._base_s = base_s
        self.limit_s = limit_s
        self._uniform = uniform
        self.failure_count = 0

    def next_s(self) -> float:
        ceiling = min(self.limit_s, self._base_s * 2 ** min(self.failure_count, 32))
        self.failure_count += 1
        return self._uniform(0, ceiling)

    def reset(self) -> None:
        self.failure_count = 0


class SlowStart:
    """How many entries a batch may have: few after a failure, twice as many after each success.

    A fleet that waited through an outage has its backlogs ready at once; this spreads their load.
    """

    def __init__(self, initial: int, maximum: int) -> None:
        self._initial = initial
        self._maximum = maximum
        self.limit = maximum

    def record_failure(self) -> None:
        self.limit = self._initial

    def record_success(self) -> None:
        self.limit = min(self._maximum, 2 * self.limit)


class BatchByteLimit:
    """How many bytes a batch may have: half of one that was too large, then slowly more.

    A proxy before central may have a limit of its own that nobody configured here.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self.limit = maximum

    def record_too_large(self, size: int) -> None:
        self.limit = max(1, size // 2)

    def record_success(self) -> None:
        self.limit = min(self._maximum, self.limit + self.limit // BYTE_LIMIT_GROWTH + 1)


class CircuitBreaker:
    """Rejects calls at once while central is unavailable, instead of a timeout for each.

    closed --threshold failures in a row--> open --cool-down--> half-open: one probe
       ^                                      ^                    |         |
       +------------------ success -----------|--------------------+         |
                                              +---------- failure -----------+
    """

    def __init__(self, *, threshold: int = 5, cool_down_s: float = 2.0) -> None:
        self._threshold = threshold
        self._cool_down_s = cool_down_s
        self._failures = 0
        self._open_until: float | None = None

    @property
    def is_open(self) -> bool:
        return self._open_until is not None

    def allows(self, now: float) -> bool:
        """Whether a call may be sent now. One that is allowed while open is the probe."""
        if self._open_until is None:
            return True
        if now < self._open_until:
            return False
        # Half-open: the next probe is allowed after another cool-down, should this one not return.
        self._open_until = now + self._cool_down_s
        return True

    def retry_after_s(self, now: float) -> float:
        return max(0.0, self._open_until - now) if self._open_until is not None else 0.0

    def record_success(self) -> None:
        self._failures = 0
        self._open_until = None

    def record_failure(self, now: float) -> None:
        self._failures += 1
        if self._failures >= self._threshold:
            self._open_until = now + self._cool_down_s
