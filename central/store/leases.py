"""Leases: until when each bound, open execution counts as alive.

## Life of a lease

    bindings.bind, executions.create --> held --renew--> held
                                          |
                                          +--no renewal for lease_s--> lapsed --renew--> held
    the execution ends (write_changes, close_executions): the row is deleted in that statement

A lapsed lease is renewed like any other while nobody closed the execution or bound it to another
source. A closed execution is never reopened: the source gets a reason, and its own terminal status
replaces the provisional FAILED.

## Renewal availability

A lapsed lease says that a sidecar is down only if it could have renewed. One row of the database,
`cu_metadata.renewal_availability`, holds since when all replicas together have accepted renewals.
Each replica updates it every ninth of a lease (`heartbeat`). The period starts again

- after a gap of a third of a lease without a heartbeat: central or its database was down, or the
  database's clock jumped. A shorter gap cannot lapse a healthy lease, which has at least seven
  ninths of its time left when the gap starts and is renewed at its end;
- after a replica failed a renewal of a source that is bound to something (`record_failure`).

A replica that starts or stops while others serve makes no gap: its sidecars reach another one
within a second. A replica that cannot reach the database closes its connections, so that they do.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain

import asyncpg

from central.metrics import Metrics
from central.store.database import Database, Transaction
from central.store.failing_rows import FailingRows, bisect
from central.store.failures import ROW_POLICIES, StatementError, policy_of
from central.store.queries import load
from central.store.sources import check_succeeded
from central.wire.leases import LostLease, LostReason, RenewedLeases
from kit.texera.statuses import TERMINAL_CODES

TOUCH_PERIOD_S = 60.0
"""A renewal updates `last_update_time` at most this often: upstream's sweep of idle units works in
minutes, and each update is a new version of a wide row."""

MAX_FAILING = 16
"""Failing rows that one renewal isolates, each by some fifteen statements."""

MAX_FAILED_SOURCES = 10_000
"""Between two heartbeats; the limit of new sources lets fewer in."""


class Leases:
    def __init__(
        self,
        database: Database,
        availability: "RenewalAvailability",
        metrics: Metrics,
        lease_s: float,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self.availability = availability
        self._failing_rows = FailingRows(metrics)
        self._lease_s = lease_s
        self._queries = load("leases")

    async def renew(
        self, source_id: str, execution_ids: Sequence[int], unit_id: int | None = None
    ) -> RenewedLeases:
        """Renews all of them in one statement, and returns those that the source has lost.

        With `unit_id` only executions of that unit are renewed. A run whose `last_update_time` the
        database fails to update (a trigger of somebody's) gets its lease all the same.
        """
        work = partial(
            self._renew, source_id=source_id, execution_ids=execution_ids, unit_id=unit_id
        )
        try:
            lost = await self._database.run(work)
        except StatementError as error:
            if policy_of(error) not in ROW_POLICIES:
                raise
            lost = await self._database.run(partial(work, isolate_failures=True))
        lost_reasons = [lease.reason.value for lease in lost]
        self._metrics.renewals(len(execution_ids) - len(lost), lost_reasons)
        return RenewedLeases(self._lease_s, lost)

    async def _renew(
        self,
        transaction: Transaction,
        *,
        source_id: str,
        execution_ids: Sequence[int],
        unit_id: int | None,
        isolate_failures: bool = False,
    ) -> list[LostLease]:
        if isolate_failures:
            renewed = await self._extend_isolated(transaction, source_id, execution_ids, unit_id)
        else:
            renewed = await self._extend(transaction, source_id, execution_ids, unit_id)
        missing = set(execution_ids).difference(renewed)
        return await self._find_lost(transaction, source_id, missing, unit_id) if missing else []

    async def _extend(
        self,
        transaction: Transaction,
        source_id: str,
        execution_ids: Sequence[int],
        unit_id: int | None,
        touch_period_s: float | None = TOUCH_PERIOD_S,
    ) -> list[int]:
        rows = await transaction.fetch(
            self._queries["renew"], source_id, execution_ids, self._lease_s, touch_period_s, unit_id
        )
        return [row["execution_id"] for row in rows]

    async def _extend_isolated(
        self,
        transaction: Transaction,
        source_id: str,
        execution_ids: Sequence[int],
        unit_id: int | None,
    ) -> list[int]:
        """As `_extend`; a run whose row fails gets its lease without `last_update_time`.

        So do all others once `MAX_FAILING` have failed: no lease may lapse for the time that it
        takes to find them.
        """
        failing: list[int] = []

        async def extend(ids: Sequence[int]) -> list[int]:
            touch_period_s = TOUCH_PERIOD_S if len(failing) < MAX_FAILING else None
            return await self._extend(transaction, source_id, ids, unit_id, touch_period_s)

        async def isolate(execution_id: int, error: StatementError) -> list[int]:
            failing.append(execution_id)
            self._failing_rows.report(
                "last_update_time of a renewed run not set", error, execution_id=execution_id
            )
            return await self._extend(transaction, source_id, [execution_id], unit_id, None)

        await transaction.check_constraints_at_once()
        return list(chain.from_iterable(await bisect(transaction, execution_ids, extend, isolate)))

    async def _find_lost(
        self,
        transaction: Transaction,
        source_id: str,
        execution_ids: Iterable[int],
        unit_id: int | None,
    ) -> list[LostLease]:
        """Why these were not renewed. Open executions bound to the source get a new lease.

        Raises `SourceSucceeded`: the leases of a key that was replaced are not lost, but its
        successor's.
        """
        lost: list[LostLease] = []
        unleased: list[asyncpg.Record] = []
        facts = self._queries["read_lease_facts"]
        for row in await transaction.fetch(facts, source_id, sorted(execution_ids), unit_id):
            reason = lost_reason(row)
            if reason is not None:
                lost.append(LostLease(row["execution_id"], reason))
            elif not row["is_leased"]:
                unleased.append(row)
        if any(lease.reason is LostReason.NOT_BOUND for lease in lost):
            await check_succeeded(transaction, source_id)
        if unleased:
            await transaction.execute(
                self._queries["insert_missing_leases"],
                source_id,
                [row["execution_id"] for row in unleased],
                [row["computing_unit_id"] for row in unleased],
                self._lease_s,
            )
        return lost


def lost_reason(facts: asyncpg.Record) -> LostReason | None:
    """None if the source holds the lease: another transaction had locked its row."""
    if not facts["is_bound"]:
        # The first check: a source that was never bound must not learn whether a run exists.
        return LostReason.NOT_BOUND
    if facts["status"] is None:
        return LostReason.GONE
    if facts["is_revoked"]:
        is_taken_over = facts["revoked_reason"] == "taken-over"
        return LostReason.BOUND_ELSEWHERE if is_taken_over else LostReason.REVOKED
    if facts["status"] in TERMINAL_CODES:
        is_closed = facts["is_provisional"] and facts["ending_status"] == facts["status"]
        return LostReason.CLOSED if is_closed else LostReason.ENDED
    if not facts["may_set_status"]:
        return LostReason.BOUND_ELSEWHERE  # reopened by SQL, and another source runs it
    return None


def max_gap_s(lease_s: float) -> float:
    """The longest time without a heartbeat in which renewals still count as available."""
    return lease_s / 3


class RenewalAvailability:
    """This replica's reports. Only `heartbeat` writes to the database."""

    def __init__(self, database: Database, lease_s: float) -> None:
        self._database = database
        self._max_gap_s = max_gap_s(lease_s)
        self._queries = load("leases")
        self._failed_sources: set[str] = set()

    def record_failure(self, source_id: str) -> None:
        """A renewal of the source could not be served; counts if the source is bound.

        Anyone can make a key: whether it is bound is asked with the heartbeat.
        """
        if len(self._failed_sources) < MAX_FAILED_SOURCES:
            self._failed_sources.add(source_id)

    async def heartbeat(self) -> float:
        """Reports that this replica serves; returns the seconds since renewals are available.

        Raises `DatabaseUnavailable`.
        """
        failed, self._failed_sources = self._failed_sources, set()
        try:
            return await self._database.run(partial(self._heartbeat, failed_sources=failed))
        except BaseException:
            self._failed_sources |= failed
            raise

    async def _heartbeat(self, transaction: Transaction, *, failed_sources: set[str]) -> float:
        row = await transaction.fetch_row(
            self._queries["record_heartbeat"], self._max_gap_s, list(failed_sources)
        )
        assert row is not None  # noqa: S101 (the statement returns one row)
        available_s: float = row["available_s"]
        return available_s
