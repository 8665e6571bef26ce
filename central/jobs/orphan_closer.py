"""The closer: no run stays "Running" for ever.

The truth is in the database: a lease per bound, open execution (`store/leases.py`), the boots of
each unit (`store/boots.py`), Texera's own word on a unit (`terminate_time`), and one row that
says since when renewals have been served (`store/continuity.py`). All moments are the
database's clock; no sidecar's and no replica's clock is ever compared with it.

A run is an orphan when
- its lease has lapsed: neither its sidecar nor its computing unit is there any more
  (`lease-lapsed`);
- its unit has booted anew since it was bound (`superseded-boot`; the boot's own call closes
  these, the closer only what slipped through);
- its unit was terminated at least one lease ago, time enough to deliver an end of its own
  (`unit-terminated`).
It becomes FAILED, provisionally: should its source be alive after all, that source's first
terminal status replaces the closer's (`fold.py`), but a RUNNING never reopens it.

Every replica runs a closer; an advisory lock lets one work at a time, and each chunk is locked,
checked again and closed in one short transaction that skips whatever row somebody else holds.
So it delays nobody, two closers cannot act twice, and one that dies in mid-pass leaves nothing
half done.

What must never happen is that a healthy fleet is failed because we could not hear it:
- silence counts only if renewals were served without interruption for one full lease, as seen
  by all replicas together, and is asked again in the transaction that closes;
- a replica closes nothing until it has itself been there for one lease;
- if more than 20 % of all leases (and more than three) are unheard at once, the fault is more
  likely ours, or the network's: then none of them is closed, a metric and the log say so, and a
  human decides (`python -m central debris`). Unheard is who missed two renewals: a fleet that is
  cut off lapses one sidecar after the other, and the first of them look like a few. A terminated
  unit and a newer boot are statements, not silence, and are believed at any number.
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
from central.store.close_executions import Reason
from central.store.orphans import Orphans, OrphanStore
from central.store.renewal_availability import RenewalAvailability
from kit.http.logs import fields
from kit.http.problems import Problem

logger = logging.getLogger(__name__)

MIN_SUSPICIOUS = 3
"""So many may fall silent at once without anybody wondering: a unit that was killed."""
MAX_LAPSED_FRACTION = 5
"""More than this share of all leases is never an orphan's silence: it is ours, or the network's."""
CHUNK = 100
"""Executions closed in one transaction: it holds their rows' locks for some milliseconds."""
BEATS_PER_LEASE = 9
"""A third of a lease without a beat is a break (`RenewalAvailability`): two may be late or lost."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a pass does: whom it closes, and how many silent ones it holds back."""

    closing: Mapping[int, Reason]
    held_count: int = 0


def plan(orphans: Orphans, *, uninterrupted_s: float, lease_s: float) -> Plan:
    """Whom to close of what was found, renewals having been served for so long."""
    if uninterrupted_s < lease_s:
        return Plan(orphans.over)
    if orphans.unheard_count > max(MIN_SUSPICIOUS, orphans.lease_count // MAX_LAPSED_FRACTION):
        return Plan(orphans.over, held_count=len(orphans.silent))
    return Plan({**orphans.silent, **orphans.over})


class OrphanCloser:
    """Beats and passes, until cancelled. Nothing here fails for want of the database."""

    def __init__(
        self,
        continuity: RenewalAvailability,
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
        self._continuity = continuity
        self._orphans = orphans
        self._metrics = metrics
        self._lease_s = lease_s
        self._period_s = period_s
        self._is_enabled = is_enabled
        self._clock = clock
        self._sleep = sleep
        self._uniform = uniform
        self._held_count = 0
        self._beaten_at = clock()

    async def run(self) -> None:
        """A beat every ninth of a lease; a pass every period, from one lease after now on."""
        pass_at = self._clock() + self._lease_s
        while True:
            uninterrupted_s = await self.beat()
            if self._is_enabled and self._clock() >= pass_at and uninterrupted_s is not None:
                pass_at = self._clock() + self._uniform(0.9, 1.0) * self._period_s
                await self.run_once(uninterrupted_s)
            wait_s = self._uniform(0.9, 1.0) * self._lease_s / BEATS_PER_LEASE
            left_s = pass_at - self._clock()  # past due only while there is no database
            await self._sleep(min(wait_s, left_s) if left_s > 0 else wait_s)

    async def beat(self) -> float | None:
        """For how many seconds renewals have been served; None while nobody can know."""
        self._beaten_at = self._clock()
        try:
            uninterrupted_s = await self._continuity.beat()
        except Problem:
            uninterrupted_s = None
        self._metrics.uninterrupted.set(uninterrupted_s or 0.0)
        return uninterrupted_s

    async def run_once(self, uninterrupted_s: float) -> int:
        """Closes what is to be closed. Answers how many that were."""
        try:
            orphans = await self._orphans.look(MIN_SUSPICIOUS, MAX_LAPSED_FRACTION)
            if orphans is None:
                self._metrics.closer_passes.labels("elsewhere").inc()
                return 0
            decided = plan(orphans, uninterrupted_s=uninterrupted_s, lease_s=self._lease_s)
            self._hold(decided, orphans)
            return await self._close(decided)
        except Problem as problem:
            self._metrics.closer_passes.labels("failed").inc()
            logger.warning("closer's pass failed", extra=fields(detail=problem.detail))
            return 0

    async def _close(self, decided: Plan) -> int:
        closed_count = 0
        for chunk in chunks(decided.closing, CHUNK):
            closed = await self._orphans.close(chunk)
            if closed is None:
                break  # another replica has begun a pass of its own
            closed_count += len(closed)
            if self._clock() - self._beaten_at > self._lease_s / BEATS_PER_LEASE:
                await self.beat()  # a long pass must not look like a break
        outcome = "closed" if closed_count else "held" if decided.held_count else "idle"
        self._metrics.closer_passes.labels(outcome).inc()
        if closed_count:
            logger.warning("orphans closed", extra=fields(count=closed_count))
        return closed_count

    def _hold(self, decided: Plan, orphans: Orphans) -> None:
        self._metrics.held_leases.set(decided.held_count)
        if decided.held_count and not self._held_count:
            logger.error(
                "too many leases lapsed at once: none is closed until a human has looked",
                extra=fields(
                    lapsed=decided.held_count,
                    unheard=orphans.unheard_count,
                    leases=orphans.lease_count,
                ),
            )
        self._held_count = decided.held_count


def chunks(reasons: Mapping[int, Reason], size: int) -> Iterator[dict[int, Reason]]:
    items = iter(reasons.items())
    while chunk := dict(islice(items, size)):
        yield chunk
