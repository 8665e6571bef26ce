"""What central's page shows: the fleet and its late sources, refusals, closures, the pool.

Made when somebody looks. What the database knows is read at most every `FLEET_PERIOD_S`, by three
short statements; while it is unavailable the page says so and shows the rest.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from central.problems import DatabaseUnavailable
from central.store.fleet import Fleet, FleetOverview
from kit.http.metrics import OUTCOMES
from kit.http.page import History, fact, problems_table, table

FLEET_PERIOD_S = 5.0


class CentralPage:
    def __init__(
        self,
        status: Callable[[], Mapping[str, Any]],
        history: History,
        fleet: Fleet,
        lease_s: float,
        *,
        shows_ids: bool,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._status = status
        self._history = history
        self._fleet = fleet
        self._lease_s = lease_s
        self._shows_ids = shows_ids
        self._monotonic = monotonic
        self._overview: FleetOverview | None = None
        self._read_at = -FLEET_PERIOD_S

    async def describe(self) -> dict[str, Any]:
        """`page.json`."""
        await self._read_fleet()
        status, overview, plot = self._status(), self._overview, self._history.plot
        return {
            "title": "Central",
            "version": status["version"],
            "facts": _facts(status, overview),
            "plots": [
                plot("Calls", "per s", {name: name for name in OUTCOMES}),
                plot(
                    "Entries of batches",
                    "per s",
                    {f"entries {name}": name for name in ("applied", "refused", "deferred")},
                ),
                plot(
                    "Connections to the database",
                    "connections",
                    {"open": "open", "in_use": "in use"},
                ),
            ],
            "tables": [*self._fleet_tables(overview), problems_table(status["problems"])],
        }

    async def _read_fleet(self) -> None:
        if self._monotonic() - self._read_at < FLEET_PERIOD_S:
            return
        try:
            self._overview = await self._fleet.overview(self._lease_s)
        except DatabaseUnavailable:
            self._overview = None
        self._read_at = self._monotonic()

    def _fleet_tables(self, overview: FleetOverview | None) -> list[dict[str, Any]]:
        if overview is None:
            return []
        headings = ("computing unit", "state", "renewed s ago", "open runs")
        rows: list[list[Any]] = [
            [
                source.computing_unit_id,
                self._state_of(source.renewed_s_ago),
                round(source.renewed_s_ago, 1),
                source.open_count,
                *([source.source_id] if self._shows_ids else []),
            ]
            for source in overview.late
        ]
        named = (*headings, "source") if self._shows_ids else headings
        return [
            table(
                "Sidecars that renewed longest ago",
                named,
                rows,
                "No sidecar has open runs.",
            ),
            table(
                "Refused in the last hour",
                ("problem", "count"),
                list(overview.refusals.items()),
                "Nothing was refused.",
            ),
            table(
                "Closed in the last hour",
                ("reason", "count"),
                list(overview.closures.items()),
                "Nothing was closed.",
            ),
        ]

    def _state_of(self, renewed_s_ago: float) -> str:
        if renewed_s_ago > self._lease_s:
            return "silent"
        return "lagging" if renewed_s_ago > self._lease_s / 2 else "live"


def _facts(status: Mapping[str, Any], overview: FleetOverview | None) -> list[dict[str, Any]]:
    not_ready, pool = status["not_ready"], status["database"]
    facts = [
        fact("Readiness", ", ".join(not_ready) or "ready", "bad" if not_ready else "ok"),
        fact(
            "Database",
            "unavailable" if overview is None else "available",
            "bad" if overview is None else "ok",
        ),
        fact("Pool", ", ".join(f"{name} {value}" for name, value in pool.items())),
    ]
    if overview is None:
        return facts
    refused, closed = sum(overview.refusals.values()), sum(overview.closures.values())
    return [
        *facts,
        fact("Sidecars with open runs", overview.source_count),
        fact("Open runs", overview.run_count),
        fact("Lagging", overview.lagging_count, "warn" if overview.lagging_count else "ok"),
        fact("Silent", overview.silent_count, "bad" if overview.silent_count else "ok"),
        fact("Refused in 1 h", refused, "warn" if refused else "ok"),
        fact("Closed in 1 h", closed, "warn" if closed else "ok"),
    ]
