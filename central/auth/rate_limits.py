"""Which limits apply to whom at this replica (ADR 9).

A user's code can call central directly, with the user's token and keys of its own making, so no
limit of a sidecar protects central. These are checked here:

- calls and bytes per second, by user where a token is sent, by source where an assertion is;
- sources this replica has not seen before: they share one rate. Keys cost nothing to make, so
  inventing them gains nothing and delays no source that is known;
- concurrent calls, by user, or by source where no user calls. Calls share a few database
  connections; above the limit a caller's calls wait for its own earlier ones.

Every refusal is 429 `rate-limited`. State: of this replica alone, one number per key for at most
`MAX_TRACKED_KEYS`; the limit of an installation is the setting times its replicas.
"""

import functools
import time
from collections.abc import Callable

from cachetools import LRUCache

from central.auth_settings import LimitSettings
from central.metrics import Metrics
from central.problems import RateLimited
from kit.http.concurrency_limit import ConcurrencyLimiter
from kit.http.rate_limit import GcraLimiter

MAX_TRACKED_KEYS = 50_000
"""More users and sidecars than a replica serves; about 100 bytes each."""
MAX_SLOT_WAIT_S = 10.0
"""As long as a sidecar waits for a response."""
SLOT_RETRY_AFTER_S = 1.0

_DETAILS = {
    "user": "too many {} of this user at once",
    "source": "too many {} of this sidecar at once",
    "new_sources": "too many {} of unknown sidecars at once",
}


class RateLimits:
    """The limits of the settings, each raised as `RateLimited`."""

    def __init__(
        self,
        settings: LimitSettings,
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        def limiter(per_s: float) -> GcraLimiter:
            return GcraLimiter(per_s, settings.burst_s, MAX_TRACKED_KEYS, monotonic=monotonic)

        self._metrics = metrics
        self._user_calls = limiter(settings.user_calls_per_s)
        self._user_bytes = limiter(settings.user_bytes_per_s)
        self._source_calls = limiter(settings.source_calls_per_s)
        self._source_bytes = limiter(settings.source_bytes_per_s)
        self._new_sources = limiter(settings.new_sources_per_s)
        self._known_sources: LRUCache[str, bool] = LRUCache(MAX_TRACKED_KEYS)
        self._concurrent_calls = ConcurrencyLimiter(settings.concurrent_calls)

    def check_user(self, user_id: int) -> None:
        """Before the body is read."""
        self._check("user", "calls", self._user_calls.acquire(user_id))

    def check_user_bytes(self, user_id: int, size_bytes: int) -> None:
        self._check("user", "bytes", self._user_bytes.acquire(user_id, size_bytes))

    def check_source(self, source_id: str) -> None:
        """Before the body is read."""
        if self._known_sources.get(source_id) is None:
            self._check("new_sources", "calls", self._new_sources.acquire(None))
            self._known_sources[source_id] = True
        self._check("source", "calls", self._source_calls.acquire(source_id))

    def check_source_bytes(self, source_id: str, size_bytes: int) -> None:
        self._check("source", "bytes", self._source_bytes.acquire(source_id, size_bytes))

    async def acquire_slot(self, caller: int | str) -> Callable[[], None]:
        """Waits until the user (an int) or source may run a call; returns the slot's release."""
        if not await self._concurrent_calls.acquire(caller, MAX_SLOT_WAIT_S):
            who = "user" if isinstance(caller, int) else "source"
            self._check(who, "concurrent calls", SLOT_RETRY_AFTER_S)
        return functools.partial(self._concurrent_calls.release, caller)

    def _check(self, who: str, what: str, wait_s: float) -> None:
        if wait_s > 0:
            self._metrics.rate_limited(who, what.replace(" ", "_"))
            raise RateLimited(_DETAILS[who].format(what), retry_after_s=wait_s)
