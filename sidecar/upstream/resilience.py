"""When to leave central alone: backoff with full jitter, a circuit, a retry budget.

Decisions only: time and randomness are arguments, nothing here waits or sends.
"""

import random
from collections.abc import Callable


class Backoff:
    """The wait before the next try: uniform between 0 and a doubling limit (full jitter)."""

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
    """How much may be sent at once: little after a failure, twice as much after each answer.

    A fleet that waited through an outage has its backlogs ready at the same moment; so they do
    not all arrive at the same moment.
    """

    def __init__(self, first: int, most: int) -> None:
        self._first = first
        self._most = most
        self.limit = most

    def failed(self) -> None:
        self.limit = self._first

    def succeeded(self) -> None:
        self.limit = min(self._most, 2 * self.limit)


class CircuitBreaker:
    """Opens after failures in a row, lets one probe through after a while, closes on success.

    While it is open callers get their refusal at once instead of each waiting a timeout.
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
        """Whether a call may go out now. An admitted call while open is the probe."""
        if self._open_until is None:
            return True
        if now < self._open_until:
            return False
        # Half open: this call is the probe; the next waits until it is known or given up.
        self._open_until = now + self._cool_down_s
        return True

    def retry_after_s(self, now: float) -> float:
        return max(0.0, self._open_until - now) if self._open_until is not None else 0.0

    def succeeded(self) -> None:
        self._failures = 0
        self._open_until = None

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._failures >= self._threshold:
            self._open_until = now + self._cool_down_s


class RetryBudget:
    """Retries as a share of first tries, so that they never multiply an overload."""

    def __init__(self, *, share: float = 0.1, burst: float = 10.0) -> None:
        self._share = share
        self._burst = burst
        self._tokens = burst

    def deposit(self) -> None:
        self._tokens = min(self._burst, self._tokens + self._share)

    def withdraw(self) -> bool:
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
