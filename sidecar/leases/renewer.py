"""The loop that renews. What it is for, and what may go wrong, is told in the package."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Protocol

from kit.http.logs import fields
from sidecar.leases.health_check import ComputingUnit, UnitState
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, UpstreamProblem
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import LostLease, RenewedLeases
from sidecar.upstream.resilience import Backoff

logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 4
"""At least so many, whatever the setting: a lease must outlast some that fail."""
FIRST_PERIOD_S = 5.0
"""At most, until central has said how long its leases are: a run that begins just after nothing
was found to renew must be renewed before its lease lapses."""
CHECKS_PER_PERIOD = 4
BACKOFF_BASE_S = 1.0
BACKOFF_LIMIT_S = 10.0
"""How widely a fleet is spread that waited for central. With a call's own timeout it is less
than what is left of a 90 s lease after the longest break that central does not count as one."""
BACKOFFS_PER_LEASE = 6
ROUND_TIMEOUT_S = 10.0
"""However long other calls may take: on a connection that died silently nothing comes back, and the
lease must outlast the wait for that, and the next round."""
ROUNDS_PER_LEASE = 3
EXPECTED_LOSSES = frozenset({"ended"})
"""The run's end came another way than through us; nothing to be warned of."""
UNIT_GONE = "unit-gone"
"""Why we give up a run whose lease central would still renew."""


class LeaseApi(Protocol):
    """What is asked of central."""

    async def renew_leases(self, execution_ids: Sequence[int]) -> RenewedLeases: ...

    async def open_bindings(self, *, min_age_s: float) -> list[int]: ...

    async def abandon(
        self, execution_ids: Sequence[int], reason: str | None = None
    ) -> list[int]: ...


class LeaseRenewer:
    """Renews what is open, until cancelled. `describe` says how that goes."""

    def __init__(
        self,
        spool: Spool,
        central: LeaseApi,
        computing_unit: ComputingUnit,
        metrics: Metrics,
        *,
        period_s: float,
        fail_runs_on_restart: bool = False,
        bindings_lost: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._spool = spool
        self._central = central
        self._computing_unit = computing_unit
        self._metrics = metrics
        self._restart_ends_runs = fail_runs_on_restart
        self._longest_period_s = period_s
        self._period_s = min(period_s, FIRST_PERIOD_S)
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform
        self._backoff = Backoff(BACKOFF_BASE_S, BACKOFF_LIMIT_S, uniform=uniform)
        self._is_alive = True
        self._losses_known = -1 if bindings_lost else spool.binding_losses
        self._adopted: set[int] = set()
        self._lost: dict[int, str] = {}
        self._unconfirmed_batch: set[int] = set()
        """What was given up and central has not been told of."""
        self._round_timeout_s = ROUND_TIMEOUT_S
        self._has_renewed = False
        self._current_at = monotonic()

    def held(self) -> list[int]:
        """The executions whose leases this sidecar holds, as far as it knows."""
        bindings = self._spool.bindings
        open_runs = {b.execution_id for b in bindings.all() if b.ended_at_ms is None}
        return sorted((open_runs | self._adopted) - self._lost.keys())

    def on_bound(self, execution_id: int) -> None:
        """Central has bound the execution to this sidecar (again)."""
        self._lost.pop(execution_id, None)
        self._unconfirmed_batch.discard(execution_id)

    def on_write(self, execution_id: int) -> None:
        """The computing unit has written to the execution: if we gave it up, it lives after all."""
        if self._lost.get(execution_id) == UNIT_GONE:
            self.on_bound(execution_id)

    def describe(self) -> dict[str, Any]:
        """The leases' part of `/status`."""
        return {
            "held": len(self.held()),
            "lost": dict(Counter(self._lost.values())),
            "renewed_s_ago": self.age_s() if self._has_renewed else None,
            "computing_unit_alive": self._is_alive,
        }

    def age_s(self) -> float:
        """How long ago the last renewal was, or nothing was to be renewed, or the start."""
        return self._monotonic() - self._current_at

    async def run(self) -> None:
        while True:
            await self._rest(await self.renew())

    async def renew(self) -> float:
        """One round: looks at the unit, renews. Answers the seconds until the next."""
        try:
            async with asyncio.timeout(self._round_timeout_s):
                return await self._round()
        except TimeoutError:
            hung = CentralUnavailable("central did not answer in time", retry_after_s=0)
            return self._failed("unavailable", hung)
        except CentralUnavailable as problem:
            return self._failed("unavailable", problem)
        except UpstreamProblem as problem:
            return self._failed("refused", problem)

    async def _round(self) -> float:
        await self._remember()
        await self._report_closed()
        execution_ids = self.held()
        if not execution_ids:
            self._current_at = self._monotonic()
            if not self._is_alive:
                await self._looks_alive()
            return self._until_next(self._period_s)
        if not await self._looks_alive():
            self._metrics.lease_renewals.labels("unit-down").inc()
            return self._until_next(self._period_s / CHECKS_PER_PERIOD)
        answer = await self._central.renew_leases(execution_ids)
        self._renewed(answer.lost)
        self._period_s = min(self._longest_period_s, answer.lease_s / RENEWALS_PER_LEASE)
        self._backoff.limit_s = min(BACKOFF_LIMIT_S, answer.lease_s / BACKOFFS_PER_LEASE)
        self._round_timeout_s = min(ROUND_TIMEOUT_S, answer.lease_s / ROUNDS_PER_LEASE)
        return self._until_next(self._period_s)

    async def _rest(self, seconds: float) -> None:
        """Until the next renewal. A master that ends and comes back meanwhile must be missed."""
        while seconds > 0:
            step_s = seconds
            if self._restart_ends_runs:
                step_s = min(seconds, self._period_s / CHECKS_PER_PERIOD)
            await self._sleep(step_s)
            seconds -= step_s
            if self._unconfirmed_batch:
                return
            if seconds > 0 and self.held():
                await self._looks_alive()

    async def _remember(self) -> None:
        """After the spool has lost its memory, all that central knows to be ours is renewed.

        A new epoch alone is no loss: what central bound and we never heard of (the answer to a
        create was lost) is to lapse.
        """
        losses = self._spool.binding_losses
        if losses != self._losses_known:
            self._adopted = set(await self._central.open_bindings(min_age_s=0))
            self._losses_known = losses

    async def _report_closed(self) -> None:
        """Ends what the unit's last process ran. Not in the round that saw it go: a write of the
        unit that comes meanwhile shows that it lives.
        """
        if self._unconfirmed_batch:
            told = sorted(self._unconfirmed_batch)
            try:
                await self._central.abandon(told, UNIT_GONE)
            except UpstreamProblem as problem:
                if problem.status != HTTPStatus.BAD_REQUEST:
                    raise
                # A central that does not know the reason yet: their leases lapse.
            self._unconfirmed_batch.difference_update(told)

    async def _looks_alive(self) -> bool:
        life = await self._computing_unit.look()
        is_alive = life is UnitState.ALIVE
        if is_alive != self._is_alive:
            message = "computing unit is back" if is_alive else "computing unit does not answer"
            logger.warning(message, extra=fields(open_executions=len(self.held())))
        self._is_alive = is_alive
        self._metrics.computing_unit_up.set(is_alive)
        if life is UnitState.DOWN and self._restart_ends_runs:
            gone = self.held()
            self._lose(dict.fromkeys(gone, UNIT_GONE))
            self._unconfirmed_batch.update(gone)
        return is_alive

    def _renewed(self, lost: list[LostLease]) -> None:
        if self._backoff.failure_count:
            logger.info("leases renewed again", extra=fields(failures=self._backoff.failure_count))
        self._backoff.reset()
        self._has_renewed = True
        self._current_at = self._monotonic()
        self._metrics.lease_renewals.labels("renewed").inc()
        self._lose({lease.execution_id: lease.reason for lease in lost})
        # What nobody knows any more need not be remembered as lost.
        known = {binding.execution_id for binding in self._spool.bindings.all()}
        for execution_id in self._lost.keys() - known - self._adopted:
            del self._lost[execution_id]

    def _lose(self, reasons: Mapping[int, str]) -> None:
        for execution_id, reason in reasons.items():
            self._lost[execution_id] = reason
            self._metrics.lost_lease(reason)
            level = logging.INFO if reason in EXPECTED_LOSSES else logging.WARNING
            logger.log(level, "lease lost", extra=fields(execution_id=execution_id, reason=reason))

    def _failed(self, outcome: str, problem: CentralUnavailable | UpstreamProblem) -> float:
        self._metrics.lease_renewals.labels(outcome).inc()
        wait_s = self._backoff.next_s()
        if isinstance(problem, CentralUnavailable) and problem.has_retry_after:
            wait_s += min(problem.retry_after_s, self._backoff.limit_s)
        if self._backoff.failure_count == 1:
            logger.warning("leases not renewed", extra=fields(detail=problem.detail))
        return wait_s

    def _until_next(self, period_s: float) -> float:
        return period_s * self._uniform(0.8, 1.0)
