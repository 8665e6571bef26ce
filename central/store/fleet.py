"""The fleet of sidecars as an operator sees it: sources and their leases, refusals, closures.

Read only, and read by nobody but operators: `central status`, `central closures`, and the page.
"""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from central.store.database import Database
from central.store.queries import load

PERIOD_S = 3600.0
"""Of what is counted."""
MAX_SOURCES = 20
"""Those that an overview names."""


class SourceLease(msgspec.Struct, frozen=True):
    """A sidecar with open runs."""

    source_id: str
    computing_unit_id: int | None
    open_count: int
    renewed_s_ago: float


class FleetOverview(msgspec.Struct, frozen=True):
    """`lagging`: no renewal for half a lease; `silent`: for a whole one. `late` are the sources
    that renewed longest ago. Refusals by slug and closures by reason are of `PERIOD_S`."""

    source_count: int
    run_count: int
    lagging_count: int
    silent_count: int
    late: list[SourceLease]
    refusals: Mapping[str, int]
    closures: Mapping[str, int]


class ClosureFilter(msgspec.Struct, frozen=True):
    """Selects closures by every field that is not None; `since_s`: in so many seconds until now."""

    execution_id: int | None = None
    computing_unit_id: int | None = None
    since_s: float | None = None


class Closure(msgspec.Struct, frozen=True):
    """An execution that central closed; unit and user are its runner's."""

    closed_at: datetime
    execution_id: int
    computing_unit_id: int | None
    user_id: int | None
    reason: str


class Fleet:
    """Raises `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("fleet")

    async def overview(self, lease_s: float) -> FleetOverview:
        """`lease_s`: a lease as the service is configured."""
        sources = await self._database.read(self._queries["list_sources"], lease_s, MAX_SOURCES)
        refused = await self._database.read(self._queries["count_refusals"], PERIOD_S)
        closed = await self._database.read(self._queries["count_closures"], PERIOD_S)
        first = sources[0] if sources else None
        names = ("source_count", "run_count", "lagging_count", "silent_count")
        totals = {name: 0 if first is None else int(first[name]) for name in names}
        late = [
            SourceLease(
                row["source_id"], row["computing_unit_id"], row["open_count"], row["renewed_s_ago"]
            )
            for row in sources
        ]
        return FleetOverview(
            **totals,
            late=late,
            refusals={row["slug"]: row["refused_count"] for row in refused},
            closures={row["reason"]: row["closed_count"] for row in closed},
        )

    async def closures(self, filters: ClosureFilter, limit: int) -> list[Closure]:
        """The newest first."""
        rows = await self._database.read(
            self._queries["list_closures"], *msgspec.structs.astuple(filters), limit
        )
        return [Closure(**dict(row)) for row in rows]
