"""How many open bindings a user and a source may have.

Each costs a renewal every 20 s and a row that the closer looks at. They are counted in the
database, which every replica shares, but not each time: after a count a replica grants a
quarter of what was left, or grants for a minute, before it counts again. So an ordinary user's
creates are not counted at all but once a minute, and the limit is exceeded by no more than what
the replicas grant at the same time.
"""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from cachetools import TTLCache

from central.auth_settings import LimitSettings
from central.metrics import Metrics
from central.problems import RateLimited
from central.store.database import Transaction
from central.store.queries import load

COUNTED_AGAIN_S = 60.0
REMEMBERED = 50_000
RETRY_AFTER_S = 30.0  # a run has to end, or a lease to lapse (90 s)


@dataclass(slots=True)
class _Remaining:
    left: int


class BindingQuota:
    def __init__(
        self,
        settings: LimitSettings,
        metrics: Metrics,
        *,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = {
            "user": settings.user_open_bindings,
            "source": settings.source_open_bindings,
        }
        self._metrics = metrics
        self._rooms: TTLCache[Hashable, _Remaining] = TTLCache(
            REMEMBERED, COUNTED_AGAIN_S, timer=timer
        )
        self._queries = load("binding_quota")

    async def take(self, transaction: Transaction, user_id: int, source_id: str) -> None:
        """Room for one more. Raises `RateLimited`."""
        keys = {"user": user_id, "source": source_id}
        rooms = {who: self._rooms.get((who, key)) for who, key in keys.items()}
        if any(self._limits[who] and not (room and room.left) for who, room in rooms.items()):
            row = await transaction.fetch_row(
                self._queries["count_open_bindings"], user_id, source_id
            )
            assert row is not None  # noqa: S101 (the statement always answers one row)
            for who, key in keys.items():
                rooms[who] = self._rooms[who, key] = self._room(who, row[f"of_{who}"])
        for room in rooms.values():
            if room is not None:
                room.left -= 1

    def _room(self, who: str, count: int) -> _Remaining:
        limit = self._limits[who]
        if limit and count >= limit:
            self._metrics.rate_limited(who, "bindings")
            whose = "user" if who == "user" else "sidecar"
            raise RateLimited(
                f"this {whose} has {count} unfinished executions, and may have {limit}",
                retry_after_s=RETRY_AFTER_S,
            )
        return _Remaining(max(1, (limit - count) // 4))
