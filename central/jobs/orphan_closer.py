"""The orphan closer: no execution stays open for ever.

Truth
    All of it is in the database: a lease per bound, open execution (`store/leases.py`), the
    boots of each unit (`store/boots.py`), Texera's `terminate_time` of a unit, and one row that
    says since when renewals have been served (`store/leases.py`). All times are
    the database's; no clock of a sidecar or of a replica is compared with it.

Which execution is an orphan, and why

    lease-lapsed      its lease has lapsed: its sidecar or its computing unit is gone
    superseded-boot   its unit has booted since it was bound; the boot's own call closes these,
                      the closer those that the call missed
    unit-terminated   its unit was terminated at least one lease ago, which is time enough for
                      the sidecar to deliver a status of its own

    An orphan becomes FAILED, provisionally: if its source is alive after all, that source's
    first terminal status replaces FAILED (`domain/fold.py`); a RUNNING does not reopen it.

    open --orphan--> FAILED, provisional --terminal status of the source--> that status, final

Concurrency
    Every replica runs a closer; an advisory lock lets one of them work at a time. Each chunk is
    locked, checked again and closed in one short transaction that skips rows locked by others.
    So the closer blocks nobody, two closers cannot close twice, and one that dies in the middle
    of a pass leaves nothing half done.

Safety: a healthy fleet is never failed because central could not be reached
    - A lapsed lease counts only if renewals were served without interruption for one full
      lease, by all replicas together; the closing transaction checks it again.
    - A replica closes nothing until it has run for one lease.
    - If more than 20 % of all leases (and more than three) miss renewals at once, the cause is
      probably ours, or the network's: the lapsed ones are withheld, a metric and the log say so,
      and an operator decides (`central orphans`). A lease counts as missing renewals
      once it has missed two, because a fleet that is cut off lapses one sidecar after the other,
      and the first of them look like a few.
    - A row that the database fails to close (a trigger that raises) stays open. Its lease keeps
      that, every pass tries it again, and it is left out of both counts above.
    - A terminated unit and a newer boot are facts, not silence: no limit applies to them.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from central.metrics import Metrics
from central.store.failures import StatementError
from central.store.leases import RenewalAvailability
from central.store.orphans import CloseReason, Orphans, OrphanStore
from kit.http.logs import fields
from kit.http.problems import Problem

logger = logging.getLogger(__name__)

MIN_SUSPICIOUS = 3
"""Up to this many may lapse at once in ordinary operation: a unit that was killed."""
LAPSED_DIVISOR = 5
"""More than one lease in five points to a fault of ours, or of the network."""
CHUNK = 100
"""Executions closed in one transaction, which locks their rows for some milliseconds."""
HEARTBEATS_PER_LEASE = 9
"""A third of a lease without one is an outage (`RenewalAvailability`): two may be late or lost."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The executions that a pass closes, and how many lapsed ones it withholds."""

    closing: Mapping[int, CloseReason]
    withheld_count: int = 0


def plan(orphans: Orphans, *, uninterrupted_s: float, lease_s: float) -> Plan:
    """Decides which orphans to close; `uninterrupted_s` is how long renewals have been served."""
    if uninterrupted_s < lease_s:
        return Plan(orphans.ended)
    if orphans.unexplained_count > max(MIN_SUSPICIOUS, orphans.lease_count // LAPSED_DIVISOR):
        return Plan(orphans.ended, withheld_count=len(orphans.lapsed.keys() - orphans.unclosable))
    return Plan({**orphans.lapsed, **orphans.ended})


class OrphanCloser:
    """Runs heartbeats and passes until cancelled. An unavailable database ends neither."""

    def __init__(
        self,
        availability: RenewalAvailability,
        orphans: OrphanStore,
        metrics: Metrics,
        *,
        lease_s: float,
        period_s: float,
        is_enabled: bool = True,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._availability = availability
        self._orphans = orphans
        self._metrics = metrics
        self._lease_s = lease_s
        self._period_s = period_s
        self._is_enabled = is_enabled
        self._clock = clock
        self._sleep = sleep
        self._uniform = uniform
        self._withheld_count = 0
        self._heartbeat_at = clock()

    async def run(self) -> None:
        """A heartbeat every ninth of a lease; a pass every period, the first one lease from now."""
        pass_at = self._clock() + self._lease_s
        while True:
            uninterrupted_s = await self.heartbeat()
            if self._is_enabled and self._clock() >= pass_at and uninterrupted_s is not None:
                pass_at = self._clock() + self._uniform(0.9, 1.0) * self._period_s
                await self.run_once(uninterrupted_s)
            wait_s = self._uniform(0.9, 1.0) * self._lease_s / HEARTBEATS_PER_LEASE
            left_s = pass_at - self._clock()  # negative only while the database is unavailable
            await self._sleep(min(wait_s, left_s) if left_s > 0 else wait_s)

    async def heartbeat(self) -> float | None:
        """For how many seconds renewals have been served; None without the database."""
        self._heartbeat_at = self._clock()
        try:
            uninterrupted_s = await self._availability.heartbeat()
        except Problem:
            uninterrupted_s = None
        self._metrics.uninterrupted.set(uninterrupted_s or 0.0)
        return uninterrupted_s

    async def run_once(self, uninterrupted_s: float) -> int:
        """Closes the orphans of one scan. Returns how many were closed."""
        try:
            orphans = await self._orphans.scan(MIN_SUSPICIOUS, LAPSED_DIVISOR)
            if orphans is None:
                self._metrics.closer_passes.labels("locked").inc()
                return 0
            decided = plan(orphans, uninterrupted_s=uninterrupted_s, lease_s=self._lease_s)
            self._report_withheld(decided, orphans)
            return await self._close(decided)
        except (Problem, StatementError) as error:
            self._metrics.closer_passes.labels("failed").inc()
            logger.warning("closer pass failed", extra=fields(detail=str(error)))
            return 0

    async def _close(self, decided: Plan) -> int:
        closed_count = 0
        for chunk in chunks(decided.closing, CHUNK):
            closed = await self._orphans.close(chunk)
            if closed is None:
                break  # another replica has started a pass
            closed_count += len(closed)
            if self._clock() - self._heartbeat_at > self._lease_s / HEARTBEATS_PER_LEASE:
                await self.heartbeat()  # a long pass must not look like an outage
        outcome = "closed" if closed_count else "withheld" if decided.withheld_count else "idle"
        self._metrics.closer_passes.labels(outcome).inc()
        if closed_count:
            logger.warning("orphans closed", extra=fields(count=closed_count))
        return closed_count

    def _report_withheld(self, decided: Plan, orphans: Orphans) -> None:
        self._metrics.orphans_withheld.set(decided.withheld_count)
        self._metrics.orphans_unclosable.set(len(orphans.unclosable))
        if decided.withheld_count and not self._withheld_count:
            logger.error(
                "too many leases lapsed at once: none is closed before an operator decides",
                extra=fields(
                    lapsed=decided.withheld_count,
                    unexplained=orphans.unexplained_count,
                    leases=orphans.lease_count,
                ),
            )
        self._withheld_count = decided.withheld_count


def chunks(reasons: Mapping[int, CloseReason], size: int) -> Iterator[dict[int, CloseReason]]:
    items = iter(reasons.items())
    while chunk := dict(islice(items, size)):
        yield chunk
