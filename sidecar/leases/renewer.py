"""The renewal loop. Its states and failures are in the package's essay."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Protocol

from kit.http.logs import fields
from sidecar.leases.health_check import UnitProbe, UnitState
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, SpoolUnavailable, UpstreamProblem
from sidecar.spool.spool import Spool
from sidecar.upstream.resilience import Backoff
from sidecar.wire.central import RenewedLeases

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 4
"""At least, whatever the setting: a lease must outlast some failed renewals."""
FIRST_PERIOD_S = 5.0
"""At most, until central's lease length is known: a run bound just after a round without runs
must be renewed before its lease lapses."""
CHECKS_PER_PERIOD = 4
BACKOFF_BASE_S = 1.0
BACKOFF_LIMIT_S = 10.0
"""Spreads a fleet that waited for central. With the round's timeout it is less than what is left
of a 90 s lease after the longest interruption that central does not count as one."""
BACKOFFS_PER_LEASE = 6
ROUND_TIMEOUT_S = 10.0
"""Whatever the timeout of other calls: a silently dead connection gives no response, and the lease
must outlast this wait and the next round."""
ROUNDS_PER_LEASE = 3
EXPECTED_LOSSES = frozenset({"ended"})
"""The run ended by another way than through this sidecar: no warning."""
LOST_FOR_GOOD = frozenset(
    {"ended", "bound-elsewhere", "binding-revoked", "execution-not-found", "not-bound"}
)
"""Not `closed`: the run may be alive, and its own terminal status must be admitted at any time."""
RECHECK_LOST_S = 24 * 3600.0
"""After which central is asked again about lost runs: it may have forgotten them, and then the
spool does too, or somebody may have reopened one by SQL."""
UNIT_GONE, UNCLAIMED = "unit-gone", "unclaimed"
"""The reasons for giving up a run whose lease central would still renew."""
UNCLAIMED_S = 24 * 3600.0
"""After damage that lost bindings, a run that has not been written to for so long is taken for an
orphaned create. Long, as a run may compute in silence: if this one does, its terminal status
replaces the provisional FAILED of the lapsed lease."""


class LeaseApi(Protocol):
    """Central's calls about leases."""

    async def renew_leases(self, execution_ids: Sequence[int]) -> RenewedLeases: ...

    async def open_bindings(self, *, min_age_s: float) -> list[int]: ...

    async def abandon(
        self, execution_ids: Sequence[int], reason: str | None = None
    ) -> list[int]: ...


class LeaseRenewer:
    """Renews the leases of all open runs, until cancelled."""

    def __init__(
        self,
        spool: Spool,
        central: LeaseApi,
        unit: UnitProbe,
        metrics: Metrics,
        *,
        period_s: float,
        fail_runs_on_restart: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._spool = spool
        self._central = central
        self._unit = unit
        self._metrics = metrics
        self._fail_runs_on_restart = fail_runs_on_restart
        self._max_period_s = period_s
        self._period_s = min(period_s, FIRST_PERIOD_S)
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform
        self._backoff = Backoff(BACKOFF_BASE_S, BACKOFF_LIMIT_S, uniform=uniform)
        self._unit_is_up = True
        self._recovered: set[int] = set()
        """What was bound when the spool had lost bindings, the known ones included."""
        self._recovered_from: int | None = None
        """`lost_at_ms` of that loss."""
        self._lost: dict[int, str] = {}
        self._rechecked_at = monotonic()
        self._unreported: set[int] = set()
        """Lost as unit-gone, and their close has not been requested yet."""
        self._bound_in_round: set[int] = set()
        """What a response says of these may be from before they were bound."""
        self._round_timeout_s = ROUND_TIMEOUT_S
        self._renewed_at = monotonic()
        self.on_lost: Callable[[int], None] = lambda execution_id: None
        """Called with each run that has not ended and is no longer this sidecar's."""

    def held(self) -> list[int]:
        """The executions whose leases this sidecar renews."""
        bindings = self._spool.bindings
        open_runs = {b.execution_id for b in bindings.all() if b.ended_at_ms is None}
        return sorted((open_runs | self._recovered) - self._lost.keys())

    def on_bound(self, execution_id: int) -> None:
        """Central has bound the execution to this sidecar (again)."""
        self._bound_in_round.add(execution_id)
        self._lost.pop(execution_id, None)
        self._unreported.discard(execution_id)

    def on_write(self, execution_id: int) -> None:
        """The unit writes to the execution: one that was given up as unit-gone is alive."""
        if self._lost.get(execution_id) == UNIT_GONE:
            self.on_bound(execution_id)

    def describe(self) -> dict[str, Any]:
        """The `leases` of `/status`."""
        return {
            "held": len(self.held()),
            "lost": dict(Counter(self._lost.values())),
            "renewed_s_ago": self.age_s(),
            "computing_unit_up": self._unit_is_up,
        }

    def age_s(self) -> float:
        """Since the last renewal, or round without runs, or the start."""
        return self._monotonic() - self._renewed_at

    async def run(self) -> None:
        while True:
            await self._wait(await self.renew())

    async def renew(self) -> float:
        """One round: checks the unit, renews. Returns the seconds until the next."""
        try:
            async with asyncio.timeout(self._round_timeout_s):
                return await self._round()
        except TimeoutError:
            hung = CentralUnavailable("central timed out", retry_after_s=0)
            return self._on_failure("unavailable", hung)
        except CentralUnavailable as problem:
            return self._on_failure("unavailable", problem)
        except UpstreamProblem as problem:
            return self._on_failure("refused", problem)

    async def _round(self) -> float:
        await self._recover_bindings()
        await self._report_closed()
        execution_ids = self.held()
        is_recheck = self._monotonic() - self._rechecked_at >= RECHECK_LOST_S
        if is_recheck:
            execution_ids = sorted({*execution_ids, *self._lost})
        if not execution_ids:
            self._renewed_at = self._monotonic()
            if not self._unit_is_up:
                await self._check_unit()
            return self._until_next(self._period_s)
        if not await self._check_unit():
            self._metrics.lease_renewals.labels("unit-down").inc()
            return self._until_next(self._period_s / CHECKS_PER_PERIOD)
        self._bound_in_round.clear()
        leases = await self._central.renew_leases(execution_ids)
        lost = {
            lease.execution_id: lease.reason
            for lease in leases.lost
            if lease.execution_id not in self._bound_in_round
        }
        if is_recheck:
            self._on_rechecked(lost)
        self._on_renewed(lost)
        await self._end_bindings(lost)
        self._period_s = min(self._max_period_s, leases.lease_s / RENEWALS_PER_LEASE)
        self._backoff.limit_s = min(BACKOFF_LIMIT_S, leases.lease_s / BACKOFFS_PER_LEASE)
        self._round_timeout_s = min(ROUND_TIMEOUT_S, leases.lease_s / ROUNDS_PER_LEASE)
        return self._until_next(self._period_s)

    async def _wait(self, seconds: float) -> None:
        """Until the next renewal. Checks in between, lest a restart of the unit goes unnoticed."""
        while seconds > 0:
            step_s = seconds
            if self._fail_runs_on_restart:
                step_s = min(seconds, self._period_s / CHECKS_PER_PERIOD)
            await self._sleep(step_s)
            seconds -= step_s
            if self._unreported:
                return
            if seconds > 0 and self.held():
                await self._check_unit()

    async def _recover_bindings(self) -> None:
        """After the spool has lost bindings, all that is bound to this source is renewed.

        The loss is made good once each of them is known again, which its next write does, has
        ended, or is unclaimed. Until then each start does this anew, and closes no orphaned create.
        A new epoch alone is no loss: an execution whose create response was lost must lapse.
        """
        bindings = self._spool.bindings
        lost_at_ms = bindings.lost_at_ms
        if lost_at_ms is None:
            return
        if lost_at_ms != self._recovered_from:
            self._recovered = set(await self._central.open_bindings(min_age_s=0))
            self._recovered_from = lost_at_ms
        ended = self._lost.keys() - self._unreported
        missing = {eid for eid in self._recovered - ended if bindings.binding(eid) is None}
        if missing and self._spool.now_ms() - lost_at_ms >= UNCLAIMED_S * 1000:
            self._drop(dict.fromkeys(sorted(missing), UNCLAIMED))
            self._recovered -= missing
            missing = set()
        if not missing:
            with suppress(SpoolUnavailable):  # tried again in the next round
                await bindings.mark_complete(lost_at_ms)

    async def _report_closed(self) -> None:
        """Closes the runs of a unit's last process. Not in the round that found it down: a write
        in between shows that the run is alive.
        """
        if self._unreported:
            reported = sorted(self._unreported)
            try:
                await self._central.abandon(reported, UNIT_GONE)
            except UpstreamProblem as problem:
                if problem.status != HTTPStatus.BAD_REQUEST:
                    raise
                # An older central that does not know the reason: the leases lapse.
            self._unreported.difference_update(reported)

    async def _check_unit(self) -> bool:
        state = await self._unit.check()
        is_up = state is UnitState.UP
        if is_up != self._unit_is_up:
            message = "computing unit is up" if is_up else "computing unit is not up"
            logger.warning(message, extra=fields(open_executions=len(self.held())))
        self._unit_is_up = is_up
        self._metrics.computing_unit_up.set(is_up)
        if state is UnitState.DOWN and self._fail_runs_on_restart:
            gone = self.held()
            self._drop(dict.fromkeys(gone, UNIT_GONE))
            self._unreported.update(gone)
        return is_up

    async def _end_bindings(self, lost: Mapping[int, str]) -> None:
        """They leave the spool after the grace, else they would pile up and be renewed again by
        each start."""
        ended = [eid for eid, reason in lost.items() if reason in LOST_FOR_GOOD]
        if ended:
            try:
                await self._spool.bindings.end(ended)
            except SpoolUnavailable as problem:  # the next start learns it again
                logger.warning("lost bindings kept", extra=fields(detail=problem.detail))

    def _on_renewed(self, lost: Mapping[int, str]) -> None:
        if self._backoff.failure_count:
            logger.info(
                "leases are renewed again", extra=fields(failures=self._backoff.failure_count)
            )
        self._backoff.reset()
        self._renewed_at = self._monotonic()
        self._metrics.lease_renewals.labels("renewed").inc()
        self._drop({eid: reason for eid, reason in lost.items() if eid not in self._lost})
        # An execution without a binding is not held anyway.
        known = {binding.execution_id for binding in self._spool.bindings.all()}
        for execution_id in self._lost.keys() - known - self._recovered:
            del self._lost[execution_id]

    def _on_rechecked(self, lost: Mapping[int, str]) -> None:
        """A run whose lease central renews is open again, unless the unit has lost it."""
        self._rechecked_at = self._monotonic()
        self._lost = {
            execution_id: reason
            for execution_id, reason in self._lost.items()
            if execution_id in lost or reason == UNIT_GONE
        }

    def _drop(self, reasons: Mapping[int, str]) -> None:
        for execution_id, reason in reasons.items():
            self._lost[execution_id] = reason
            self._metrics.lost_leases.labels(reason).inc()
            is_expected = reason in EXPECTED_LOSSES
            level = logging.INFO if is_expected else logging.WARNING
            logger.log(level, "lease lost", extra=fields(execution_id=execution_id, reason=reason))
            if not is_expected:
                self.on_lost(execution_id)

    def _on_failure(self, outcome: str, problem: CentralUnavailable | UpstreamProblem) -> float:
        self._metrics.lease_renewals.labels(outcome).inc()
        wait_s = self._backoff.next_s()
        if isinstance(problem, CentralUnavailable) and problem.has_retry_after:
            wait_s += min(problem.retry_after_s, self._backoff.limit_s)
        if self._backoff.failure_count == 1:
            logger.warning("leases not renewed", extra=fields(detail=problem.detail))
        return wait_s

    def _until_next(self, period_s: float) -> float:
        return period_s * self._uniform(0.8, 1.0)
