"""Which limits apply to each user of this sidecar, so that a runaway program delays nobody else.

A user's code can call the local API with any token it can see, and cannot be distinguished from the
CU master that runs for the same user. So usage is counted by user, and only where it would delay
others or fill the spool faster than central can take it:

- writes and their bytes per second, by user, with a burst of a minute's worth (429
  `rate-limited`). A terminal status does not count: a run must be able to end whatever its program
  did before. That exemption is limited per execution, or it would bypass the limit;
- the spool, by share: once it is half full, a user with more than half of its entries is refused
  while another user is bound here. A single user may fill it (503 `spool-full`);
- concurrent calls, by user: each holds a connection here and maybe one to central. Writes are
  counted apart, so that polls cannot keep a run from being ended. All tokens that central has not
  vouched for count as one user, because they cost nothing to invent. Their calls wait for a slot,
  first come, first served: a connection makes one call at a time, so whoever makes tokens up on
  many connections delays a user's first call by one call of each, and does not keep it out.

State: of this process; a restart resets it.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NoReturn

from kit.http.concurrency_limit import ConcurrencyLimiter
from kit.http.rate_limit import GcraLimiter
from sidecar.metrics import Metrics
from sidecar.problems import RateLimited
from sidecar.settings import LimitSettings
from sidecar.spool.entry import NewEntry, Priority
from sidecar.spool.spool import Spool

MAX_TRACKED_USERS = 10_000
MAX_TRACKED_EXECUTIONS = 10_000
EXEMPT_STATUSES = 10
"""Terminal statuses per execution and burst that do not count: a run has one, or two (KILLED,
then COMPLETED), and its client may repeat them."""
WRITE_METHODS = frozenset({"PATCH", "PUT"})
"""The methods by which a running program stores anything, its terminal status included."""
CALLS_RETRY_AFTER_S = 1.0
UNKNOWN_TOKEN_WAIT_S = 2.0
"""Enough for one call of each connection, if central is in the cluster."""
SHARE_RETRY_AFTER_S = 5.0
MAX_SPOOL_SHARE = 0.5


class UserLimits:
    """The limits of the settings, each raised as `RateLimited`."""

    def __init__(
        self,
        settings: LimitSettings,
        spool: Spool,
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        burst_s = settings.burst_s
        self._settings = settings
        self._spool = spool
        self._metrics = metrics
        self._writes = GcraLimiter(
            settings.writes_per_s, burst_s, MAX_TRACKED_USERS, monotonic=monotonic
        )
        self._bytes = GcraLimiter(
            settings.write_bytes_per_s, burst_s, MAX_TRACKED_USERS, monotonic=monotonic
        )
        self._exempt_statuses = GcraLimiter(
            EXEMPT_STATUSES / max(burst_s, 1.0),
            max(burst_s, 1.0),
            MAX_TRACKED_EXECUTIONS,
            monotonic=monotonic,
        )
        self._concurrent_calls = ConcurrencyLimiter(settings.concurrent_calls)

    @contextmanager
    def call_slot(self, user_id: int, method: str) -> Iterator[None]:
        """Counts a call for the block."""
        key = (user_id, method in WRITE_METHODS)
        if not self._concurrent_calls.try_acquire(key):
            self._refuse("calls", "too many concurrent calls of this user", CALLS_RETRY_AFTER_S)
        try:
            yield
        finally:
            self._concurrent_calls.release(key)

    @asynccontextmanager
    async def unknown_call_slot(self, method: str) -> AsyncIterator[None]:
        """Counts a call whose token is not known to be valid, for the block; waits for a slot."""
        key = (None, method in WRITE_METHODS)
        if not await self._concurrent_calls.acquire(key, UNKNOWN_TOKEN_WAIT_S):
            self._refuse("calls", "too many calls with unknown tokens", CALLS_RETRY_AFTER_S)
        try:
            yield
        finally:
            self._concurrent_calls.release(key)

    def check_write(self, new: NewEntry) -> None:
        """Raises `RateLimited` before a write is made durable."""
        if new.priority is Priority.TERMINAL and not self._exempt_statuses.acquire(
            new.execution_id
        ):
            return
        wait_s = self._writes.acquire(new.user_id)
        if wait_s:
            self._refuse("writes", "too many writes of this user at once", wait_s)
        wait_s = self._bytes.acquire(new.user_id, new.size_bytes)
        if wait_s:
            self._refuse("bytes", "too many bytes of this user at once", wait_s)
        if new.priority is not Priority.TERMINAL:
            self._check_share(new.user_id)

    def _check_share(self, user_id: int) -> None:
        spool = self._spool
        if spool.queues.size_bytes <= MAX_SPOOL_SHARE * spool.high_water_bytes:
            return
        # Only an execution's own user writes to it, so its entries are that user's.
        bindings = [binding for binding in spool.bindings.all() if binding.ended_at_ms is None]
        if all(binding.user_id == user_id for binding in bindings):
            return
        lengths = spool.queues.lengths()
        others = sum(
            lengths.get(binding.execution_id, 0)
            for binding in spool.bindings.all()
            if binding.user_id != user_id
        )
        if others < (1 - MAX_SPOOL_SHARE) * spool.queues.entry_count:
            self._refuse(
                "share",
                "this user has most of the spool's entries, and others write here",
                SHARE_RETRY_AFTER_S,
            )

    def _refuse(self, limit: str, detail: str, retry_after_s: float) -> NoReturn:
        self._metrics.rate_limited.labels(limit).inc()
        raise RateLimited(detail, retry_after_s=retry_after_s)
