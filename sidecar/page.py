"""What the sidecar's page shows: each write of the last minutes, the spool, the cache, the lease.

Made when somebody looks, of what the parts know anyway: `/status`, the samples of `History`, the
ring of settled writes, and the spool file, which a thread reads as `sidecar spool` does.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kit.http.page import History, fact, problems_table
from kit.tables import duration
from sidecar.delivery.recent_writes import RecentWrites
from sidecar.spool.inspect import NoSpool, Unreadable, WaitingWrite, inspected

WINDOW_S = 300.0
MAX_WAITING = 200
ID_COLUMNS = ("execution_id", "user_id")
LATE_S = 60.0
LEASE_LATE_S = 45.0
"""Two missed renewals: they are 20 s apart."""


class SidecarPage:
    def __init__(
        self,
        status: Callable[[], Mapping[str, Any]],
        history: History,
        recent: RecentWrites,
        spool_dir: Path,
        now_ms: Callable[[], int],
        *,
        shows_ids: bool,
    ) -> None:
        self._status = status
        self._history = history
        self._recent = recent
        self._spool_dir = spool_dir
        self._now_ms = now_ms
        self._shows_ids = shows_ids

    async def describe(self) -> dict[str, Any]:
        """`page.json`."""
        waiting = await asyncio.to_thread(self._read_waiting)
        status = self._status()
        plot = self._history.plot
        return {
            "title": "Sidecar",
            "version": status["version"],
            "facts": facts(status),
            "lives": self._lives(waiting, status["spool"]["waiting"]),
            "plots": [
                plot("Writes that wait", "writes", {"waiting": "waiting"}),
                plot("Spool level", "%", {"level": "of its size"}, 100.0),
                plot(
                    "Writes",
                    "per s",
                    {name: name for name in ("durable", "committed", "refused")},
                ),
                plot(
                    "Reads by cache result",
                    "per s",
                    {name: name for name in ("hit", "pending", "miss", "stale")},
                ),
                plot("Central's pulse", "reachable", {"reachable": "1 is reachable, 0 away"}),
                plot("Since the last renewal of leases", "s", {"renewed_s_ago": "since"}, 20.0),
            ],
            "tables": [problems_table(status["problems"])],
        }

    def _read_waiting(self) -> list[WaitingWrite]:
        try:
            with inspected(self._spool_dir) as spool:
                return spool.newest_waiting(MAX_WAITING)
        except (NoSpool, Unreadable):
            return []  # readiness says why

    def _lives(self, waiting: list[WaitingWrite], waiting_count: int) -> dict[str, Any]:
        now_ms = self._now_ms()
        ids = ID_COLUMNS if self._shows_ids else ()
        shown = [
            {
                "seq": write.seq,
                "op": write.op,
                "state": "in flight" if write.is_in_flight else "durable",
                "problem": None,
                "accepted_s_ago": self._age_s(write.made_at_ms),
                "sent_s_ago": None,
                "settled_s_ago": None,
                **{name: getattr(write, name) for name in ids},
            }
            for write in waiting
        ]
        still_waiting = {write.seq for write in waiting}
        shown += [
            {
                "seq": write.seq,
                "op": write.op,
                "state": write.state,
                "problem": write.problem,
                "accepted_s_ago": self._age_s(write.made_at_ms),
                "sent_s_ago": self._age_s(write.sent_at_ms),
                "settled_s_ago": self._age_s(write.settled_at_ms),
                **{name: getattr(write, name) for name in ids},
            }
            for write in self._recent.since(now_ms - int(WINDOW_S * 1000))
            if write.seq not in still_waiting
        ]
        return {
            "title": "Writes of the last minutes",
            "window_s": WINDOW_S,
            "more": max(0, waiting_count - len(waiting)),
            "ids": ids,
            "writes": shown,
        }

    def _age_s(self, at_ms: int) -> float:
        return round(max(0, self._now_ms() - at_ms) / 1000, 3)


def facts(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The state in one line each, of `/status`."""
    spool, upstream, leases = status["spool"], status["upstream"], status["leases"]
    results = status["cache"]["results"]
    reads = sum(results.values())
    oldest_s = spool["oldest_waiting_s"]
    parked, not_ready = upstream["parked_because"], status["not_ready"]
    is_full = spool["full"] or spool["disk_full"]
    renewed_s = leases["renewed_s_ago"]
    is_renewing = not leases["held"] or renewed_s < LEASE_LATE_S
    return [
        fact("Readiness", ", ".join(not_ready) or "ready", "bad" if not_ready else "ok"),
        fact(
            "Central",
            "reachable" if upstream["reachable"] else "away",
            "ok" if upstream["reachable"] else "bad",
        ),
        fact("Delivery", "parked" if parked else "on", "bad" if parked else "ok"),
        fact("Waiting writes", spool["waiting"], "warn" if oldest_s > LATE_S else "ok"),
        fact("Oldest write", duration(oldest_s) if spool["waiting"] else "none waits"),
        fact("Spool", "full" if is_full else "has room", "bad" if is_full else "ok"),
        fact("Leases", f"{leases['held']} held", "ok" if is_renewing else "bad"),
        fact(
            "Computing unit",
            "up" if leases["computing_unit_up"] else "down",
            "ok" if leases["computing_unit_up"] else "bad",
        ),
        fact(
            "Cache hits",
            f"{100 * results.get('hit', 0) / reads:.0f} %" if reads else "none yet",
        ),
        fact("Clock", f"{upstream['clock_offset_s']:+.0f} s to central"),
    ]
