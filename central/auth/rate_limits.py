"""How much one user and one source may ask of this replica (DESIGN.md section 2).

A user's code can call central directly, with the user's token and keys of its own making, so
nothing that a sidecar does by itself counts here. Calls and bytes are counted by user, where a
token is sent, and by source, where an assertion is. Keys cost nothing to make: sources that
this replica has not met before share one rate, so that making keys buys nothing and those that
work are not held up by those that are made up.

Memory: one number a key, for at most `REMEMBERED` keys. State: of this replica alone, so that
an installation's limit is the setting times its replicas.
"""

import time
from collections.abc import Callable
from typing import NoReturn

from cachetools import LRUCache

from central.auth_settings import LimitSettings
from central.metrics import Metrics
from central.problems import RateLimited
from kit.http.rate_limit import Rate

REMEMBERED = 50_000
"""More users and sidecars than a replica serves; about 100 bytes each."""


class RateLimits:
    """Promise: whoever is let through has used no more than the settings allow."""

    def __init__(
        self,
        settings: LimitSettings,
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        def rate(per_s: float) -> Rate:
            return Rate(per_s, settings.burst_s, REMEMBERED, monotonic=monotonic)

        self._metrics = metrics
        self._user_calls = rate(settings.user_calls_per_s)
        self._user_bytes = rate(settings.user_bytes_per_s)
        self._source_calls = rate(settings.source_calls_per_s)
        self._source_bytes = rate(settings.source_bytes_per_s)
        self._new_sources = rate(settings.new_sources_per_s)
        self._known_sources: LRUCache[str, bool] = LRUCache(REMEMBERED)

    def admit_user(self, user_id: int, size_bytes: int) -> None:
        """Raises `RateLimited`."""
        self._take("user", "calls", self._user_calls, user_id, 1)
        self._take("user", "bytes", self._user_bytes, user_id, size_bytes)

    def admit_source(self, source_id: str, size_bytes: int) -> None:
        """Raises `RateLimited`."""
        if self._known_sources.get(source_id) is None:
            self._take("new_sources", "calls", self._new_sources, None, 1)
            self._known_sources[source_id] = True
        self._take("source", "calls", self._source_calls, source_id, 1)
        self._take("source", "bytes", self._source_bytes, source_id, size_bytes)

    def _take(self, who: str, what: str, rate: Rate, key: int | str | None, amount: int) -> None:
        wait_s = rate.take(key, amount)
        if wait_s > 0:
            self._metrics.rate_limited(who, what)
            _refuse(who, what, wait_s)


_WHOSE = {
    "user": "of this user",
    "source": "of this sidecar",
    "new_sources": "of sidecars that were never met before",
}


def _refuse(who: str, what: str, wait_s: float) -> NoReturn:
    raise RateLimited(f"too many {what} {_WHOSE[who]} at once", retry_after_s=wait_s)
