"""Rate limits by key in bounded memory: how much of something one key may use per second.

The generic cell rate algorithm keeps one number per key, its theoretical arrival time (TAT): the
time at which everything used so far is paid for at the steady rate. A call that would move the
TAT further into the future than the burst allows is refused, together with the time after which
it would pass. An expired TAT is the same as no state, so evicting it costs nothing.
"""

import time
from collections.abc import Callable, Hashable

from cachetools import LRUCache


class GcraLimiter:
    """Grants `per_s` per second and key, `burst_s` seconds' worth of it at once; 0 is no limit.

    At most `max_keys` are tracked. A key evicted before its TAT expires starts with a full burst
    again: callers who can invent keys need another limit.
    """

    def __init__(
        self,
        per_s: float,
        burst_s: float,
        max_keys: int,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_s = per_s
        self._burst_s = burst_s
        self._monotonic = monotonic
        self._tat: LRUCache[Hashable, float] = LRUCache(max_keys)

    def acquire(self, key: Hashable, amount: float = 1.0) -> float:
        """Returns 0 if the amount is granted, else the seconds after which it would be."""
        if self._per_s <= 0:
            return 0.0
        now = self._monotonic()
        tat = max(now, self._tat.get(key, now))
        new_tat = tat + amount / self._per_s
        wait_s = new_tat - now - self._burst_s
        # An amount above the burst would never be granted, so an idle key gets it in advance.
        if wait_s > 0 and tat > now:
            return wait_s
        self._tat[key] = new_tat
        return 0.0
