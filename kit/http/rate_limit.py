"""Rates by key in bounded memory: how much of something somebody may do in a while.

The generic cell rate algorithm: of each key one moment is kept, at which all it has used so
far would be paid for at the steady rate. What lies further ahead than the burst allows is
refused, with the time after which it would not be. A key whose moment has passed is a key
never seen, so forgetting it costs nothing.
"""

import time
from collections.abc import Callable, Hashable

from cachetools import LRUCache


class Rate:
    """So much a second, and `burst_s` seconds' worth of it at once. 0 a second is no limit.

    At most `keys` are remembered. Were one forgotten before its time it could begin anew:
    whoever can make up keys has to be held elsewhere.
    """

    def __init__(
        self,
        per_s: float,
        burst_s: float,
        keys: int,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_s = per_s
        self._burst_s = burst_s
        self._monotonic = monotonic
        self._tat: LRUCache[Hashable, float] = LRUCache(keys)

    def take(self, key: Hashable, amount: float = 1.0) -> float:
        """0 if the amount is granted; else the seconds after which it would be."""
        if self._per_s <= 0:
            return 0.0
        now = self._monotonic()
        paid_at = max(now, self._tat.get(key, now)) + amount / self._per_s
        wait_s = paid_at - now - self._burst_s
        # More than a whole burst at once is granted to whoever has used nothing: it is paid for
        # afterwards, and never would be otherwise.
        if wait_s > 0 and paid_at - amount / self._per_s > now:
            return wait_s
        self._tat[key] = paid_at
        return 0.0
