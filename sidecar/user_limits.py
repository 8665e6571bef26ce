"""How much one user may ask of this sidecar, so that a runaway program starves nobody else.

A user's code can call the local API with any token it can see. It cannot be told from the
master that runs for the same user, so what it uses up is that user's; what is held here is
what would hit others, or fill the spool faster than central could ever take it:

- writes and their bytes a second, by user, a minute's worth at once (429 `rate-limited`). A
  terminal status does not count: a run must be able to end whatever its program did before.
  That exemption is bounded too, by execution, or it would be the way around;
- the spool, by share: above half of its ordinary room, whoever has more than half of what
  waits is refused while another user is bound here. A user alone may fill it (503 `spool-full`);
- calls under way, by user: each holds a connection here and maybe one to central. Writes are
  counted apart, so that no number of polls keeps a run from being ended. Tokens that central has
  not vouched for cost nothing to make up: all of them together are counted as one user.

State: of this process; a restart begins anew.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import msgspec

from kit.http.rate_limit import Rate
from sidecar.metrics import Metrics
from sidecar.problems import RateLimited
from sidecar.settings import LimitSettings
from sidecar.spool.entry import ENTRY_OVERHEAD_BYTES, NewEntry, Priority
from sidecar.spool.spool import Spool

REMEMBERED_USERS = 10_000
REMEMBERED_EXECUTIONS = 10_000
EXEMPT_STATUSES = 10
"""Terminal statuses of one execution within a burst that count for nothing: a run has one, or
two (KILLED, then COMPLETED), and its client may repeat them."""
WRITING = frozenset({"PATCH", "PUT"})
"""The methods of what a running program stores, its end among it."""
CALLS_RETRY_AFTER_S = 1.0
SHARE_RETRY_AFTER_S = 5.0
SHARE = 0.5


class UserLimits:
    """Promise: what is let through leaves room for the others."""

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
        self._writes = Rate(settings.writes_per_s, burst_s, REMEMBERED_USERS, monotonic=monotonic)
        self._bytes = Rate(
            settings.write_bytes_per_s, burst_s, REMEMBERED_USERS, monotonic=monotonic
        )
        self._exempt = Rate(
            EXEMPT_STATUSES / max(burst_s, 1.0),
            max(burst_s, 1.0),
            REMEMBERED_EXECUTIONS,
            monotonic=monotonic,
        )
        self._under_way: defaultdict[tuple[int | None, bool], int] = defaultdict(int)

    @contextmanager
    def call(self, user_id: int | None, method: str) -> Iterator[None]:
        """A call, for as long as it is under way; None: of a token that nobody has vouched for.

        Raises `RateLimited`.
        """
        most, kind = self._settings.concurrent_calls, (user_id, method in WRITING)
        if most and self._under_way[kind] >= most:
            whose = "tokens that are not known here" if user_id is None else "this user"
            self._refuse("calls", f"{most} calls of {whose} are under way", CALLS_RETRY_AFTER_S)
        self._under_way[kind] += 1
        try:
            yield
        finally:
            self._under_way[kind] -= 1
            if not self._under_way[kind]:
                del self._under_way[kind]

    def check_write(self, new: NewEntry) -> None:
        """Before a write is made durable. Raises `RateLimited`."""
        if new.priority is Priority.TERMINAL and not self._exempt.take(new.execution_id):
            return
        wait_s = self._writes.take(new.user_id)
        if wait_s:
            self._refuse("writes", "too many writes of this user at once", wait_s)
        members_bytes = len(msgspec.json.encode(new.members))
        wait_s = self._bytes.take(new.user_id, ENTRY_OVERHEAD_BYTES + members_bytes)
        if wait_s:
            self._refuse("bytes", "too many bytes of this user at once", wait_s)
        if new.priority is not Priority.TERMINAL:
            self._check_share(new.user_id)

    def _check_share(self, user_id: int) -> None:
        spool = self._spool
        if spool.queues.size_bytes <= SHARE * spool.high_water_bytes:
            return
        # Only an execution's own user can write to it, so its writes are that user's.
        bindings = [binding for binding in spool.bindings.all() if binding.ended_at_ms is None]
        if all(binding.user_id == user_id for binding in bindings):
            return
        lengths = spool.queues.lengths()
        others = sum(
            lengths.get(binding.execution_id, 0)
            for binding in spool.bindings.all()
            if binding.user_id != user_id
        )
        if others < (1 - SHARE) * spool.queues.entry_count:
            self._refuse(
                "share",
                "most of what waits is this user's, and others write here",
                SHARE_RETRY_AFTER_S,
            )

    def _refuse(self, what: str, detail: str, retry_after_s: float) -> NoReturn:
        self._metrics.rate_limited.labels(what).inc()
        raise RateLimited(detail, retry_after_s=retry_after_s)
