"""Orphans: open executions that nobody will end, found and closed as FAILED.

The FAILED is provisional (`central/domain/fold.py`): the first terminal status of a bound source
replaces it. There are two kinds:

- bound executions (`OrphanStore`) whose lease has lapsed, or whose unit was terminated or has
  booted again. `central/jobs/orphan_closer.py` decides which of them are closed;
- executions that no sidecar ever bound (`UnboundExecutions`). The closer leaves them alone,
  because without a lease nothing is known but the time of Texera's last update and whether the
  unit was terminated. An operator lists and closes them.

Whoever closes holds the rows' locks and has found them open. The reason is stored in
`cu_metadata.terminal_statuses` and logged after the commit.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from itertools import chain
from typing import Literal, TypeAlias

import asyncpg
import msgspec

from central.metrics import Metrics
from central.store.database import Database, Transaction
from central.store.failing_rows import FailingRows, bisect
from central.store.failures import StatementError
from central.store.leases import max_gap_s
from central.store.queries import load
from kit.http.logs import fields
from kit.texera.statuses import Status, status_of_code

logger = logging.getLogger(__name__)

BOOT_HORIZON_S = 3600.0
"""Only younger boots are checked: a boot's own call closes what it finds, and what it could not
see is visible within seconds."""
CLOSE_CHUNK = 500
"""Unbound executions closed in one transaction."""
SCAN_CHUNK = 20_000
"""Executions that one statement of `find` reads: some ten milliseconds, on tables of any size."""

UnitState: TypeAlias = Literal["running", "terminated", "none"]


class CloseReason(StrEnum):
    """Why an execution was closed."""

    LEASE_LAPSED = "lease-lapsed"
    SUPERSEDED_BOOT = "superseded-boot"
    UNIT_TERMINATED = "unit-terminated"
    ABANDONED_CREATE = "abandoned-create"
    UNIT_GONE = "unit-gone"
    STALE = "stale"


class ExecutionCloser:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._failing_rows = FailingRows(metrics)
        self._queries = load("orphans")

    async def close(
        self,
        transaction: Transaction,
        reasons: Mapping[int, CloseReason],
        *,
        by_operator: bool = False,
    ) -> list[int]:
        """Closes executions that this transaction has locked and found open.

        Returns those that are closed, in order. A row that the database fails (a trigger of
        somebody's) stays open, and the others are closed. What an operator closes is in the audit.
        """
        if not reasons:
            return []

        async def close(ids: Sequence[int]) -> Sequence[int]:
            named = [str(reasons[execution_id]) for execution_id in ids]
            await transaction.execute(self._queries["close_executions"], ids, named, by_operator)
            return ids

        async def isolate(execution_id: int, error: StatementError) -> Sequence[int]:
            self._failing_rows.report("execution not closed", error, execution_id=execution_id)
            return ()

        await transaction.check_constraints_at_once()
        parts = await bisect(transaction, list(reasons), close, isolate)
        closed = list(chain.from_iterable(parts))
        transaction.after_commit(partial(self._report, reasons, closed))
        return closed

    def _report(self, reasons: Mapping[int, CloseReason], closed: Iterable[int]) -> None:
        for execution_id in closed:
            reason = reasons[execution_id]
            self._metrics.closed(reason)
            logger.warning(
                "execution closed", extra=fields(execution_id=execution_id, reason=str(reason))
            )


@dataclass(frozen=True)
class Orphans:
    """The result of one scan: open executions with the reason for closing them."""

    lapsed: Mapping[int, CloseReason] = field(default_factory=dict)
    """Their lease has lapsed; there is no other evidence."""
    ended: Mapping[int, CloseReason] = field(default_factory=dict)
    """Their unit was terminated, or has booted again."""
    unexplained_count: int = 0
    """Leases of units that were not terminated and that have lapsed, or have not been renewed for
    half their length."""
    lease_count: int = 0
    """All leases; counted only if more than `min_suspicious` are unexplained, and only as far as
    the comparison needs."""
    unclosable: frozenset[int] = frozenset()
    """Lapsed ones whose rows the database failed to close. Each pass tries them again, and the
    guard does not count them: otherwise enough of them would keep all others open."""


class OrphanStore:
    """Each method is a short transaction. Only one replica at a time scans or closes."""

    def __init__(
        self, database: Database, execution_closer: ExecutionCloser, lease_s: float
    ) -> None:
        self._database = database
        self._execution_closer = execution_closer
        self._lease_s = lease_s
        self._queries = load("orphans")

    async def scan(self, min_suspicious: int, lapsed_divisor: int) -> Orphans | None:
        """The orphans; None while another replica scans or closes.

        Leases are counted only as far as needed to know whether more than `min_suspicious`, and
        more than one in `lapsed_divisor`, are unexplained.
        """
        return await self._database.run(
            partial(self._scan, min_suspicious=min_suspicious, lapsed_divisor=lapsed_divisor)
        )

    async def _scan(
        self, transaction: Transaction, *, min_suspicious: int, lapsed_divisor: int
    ) -> Orphans | None:
        if not await self._try_lock(transaction):
            return None
        await transaction.execute(self._queries["drop_ended_leases"])
        found = await self._find(transaction)
        if found.lapsed.keys() <= found.unclosable:
            return found
        overdue = await transaction.fetch_row(self._queries["count_overdue"], self._lease_s / 2)
        unexplained_count = found.unexplained_count + (overdue["overdue_count"] if overdue else 0)
        found = replace(found, unexplained_count=unexplained_count)
        if unexplained_count <= min_suspicious:
            return found
        counted = await transaction.fetch_row(
            self._queries["count_leases"], unexplained_count * lapsed_divisor
        )
        return replace(found, lease_count=counted["lease_count"] if counted else 0)

    async def _find(self, transaction: Transaction) -> Orphans:
        """The orphans, of the unexplained only those that have lapsed."""
        lapsed: dict[int, CloseReason] = {}
        ended: dict[int, CloseReason] = {}
        explained: set[int] = set()
        unclosable: set[int] = set()
        for row in await self._find_lapsed(transaction, None):
            if row["is_terminated"]:
                ended[row["execution_id"]] = CloseReason.UNIT_TERMINATED
            else:
                lapsed[row["execution_id"]] = CloseReason.LEASE_LAPSED
            if row["is_explained"]:
                explained.add(row["execution_id"])
            if row["is_unclosable"]:
                unclosable.add(row["execution_id"])
        for row in await transaction.fetch(
            self._queries["find_ended_units"], self._lease_s, BOOT_HORIZON_S
        ):
            execution_id = row["execution_id"]
            ended[execution_id] = (
                CloseReason.UNIT_TERMINATED if row["is_terminated"] else CloseReason.SUPERSEDED_BOOT
            )
            lapsed.pop(execution_id, None)
        unexplained = lapsed.keys() - explained - unclosable
        return Orphans(lapsed, ended, len(unexplained), unclosable=frozenset(unclosable))

    async def lapsed(self, unit_id: int | None) -> list[int]:
        """Open executions, of one unit or of all, whose leases have lapsed, in id order."""
        return await self._database.run(partial(self._lapsed, unit_id=unit_id))

    async def _lapsed(self, transaction: Transaction, *, unit_id: int | None) -> list[int]:
        rows = await self._find_lapsed(transaction, unit_id)
        return [row["execution_id"] for row in rows]

    async def _find_lapsed(
        self, transaction: Transaction, unit_id: int | None
    ) -> list[asyncpg.Record]:
        return await transaction.fetch(self._queries["find_lapsed"], self._lease_s, unit_id)

    async def close(
        self, reasons: Mapping[int, CloseReason], *, operator_override: bool = False
    ) -> list[int] | None:
        """Closes those that are unchanged since the scan, and returns their ids.

        None while another replica scans or closes. A lapsed lease counts only while renewals are
        available, or with `operator_override`.
        """
        return await self._database.run(
            partial(self._close, reasons=reasons, operator_override=operator_override)
        )

    async def _close(
        self,
        transaction: Transaction,
        *,
        reasons: Mapping[int, CloseReason],
        operator_override: bool,
    ) -> list[int] | None:
        if not await self._try_lock(transaction):
            return None
        rows = await transaction.fetch(
            self._queries["lock_orphans"],
            list(reasons),
            [reason is CloseReason.LEASE_LAPSED for reason in reasons.values()],
            None if operator_override else self._lease_s,
            max_gap_s(self._lease_s),
        )
        locked = {row["execution_id"]: reasons[row["execution_id"]] for row in rows}
        closed = await self._execution_closer.close(
            transaction, locked, by_operator=operator_override
        )
        if failed := locked.keys() - closed:
            await transaction.execute(self._queries["record_unclosable"], list(failed))
        return sorted(closed)

    async def _try_lock(self, transaction: Transaction) -> bool:
        row = await transaction.fetch_row(self._queries["try_closer_lock"])
        return row is not None and bool(row["is_locked"])


class UnboundFilter(msgspec.Struct, frozen=True):
    """Selects executions by every field that is not None."""

    min_age_s: float
    unit_state: UnitState | None = None
    computing_unit_id: int | None = None


class UnboundRun(msgspec.Struct, frozen=True):
    """`unit_state` is "none" if the row names no unit, or a deleted one."""

    execution_id: int
    workflow_id: int
    user_id: int
    computing_unit_id: int | None
    status: Status
    unit_state: UnitState
    updated_at: datetime


class UnboundExecutions:
    def __init__(self, database: Database, execution_closer: ExecutionCloser) -> None:
        self._database = database
        self._execution_closer = execution_closer
        self._queries = load("orphans")

    async def find(self, unbound_filter: UnboundFilter) -> AsyncIterator[UnboundRun]:
        """All matches in id order, read chunk by chunk."""
        last_id = 0
        while rows := await self._database.read(
            self._queries["find_unbound"],
            *msgspec.structs.astuple(unbound_filter),
            last_id,
            SCAN_CHUNK,
        ):
            for row in rows:
                columns = dict(row)
                last_id = columns.pop("last_id")
                code = columns.pop("status_code")
                if code is not None:
                    yield UnboundRun(status=status_of_code(code), **columns)

    async def close(self, runs: Sequence[UnboundRun], min_age_s: float) -> list[int]:
        """Closes those that are unchanged since they were found, `CLOSE_CHUNK` at most."""
        ids = [run.execution_id for run in runs]
        return await self._database.run(partial(self._close, ids=ids, min_age_s=min_age_s))

    async def _close(
        self, transaction: Transaction, *, ids: Sequence[int], min_age_s: float
    ) -> list[int]:
        rows = await transaction.fetch(self._queries["lock_unbound"], ids, min_age_s)
        reasons = {row["execution_id"]: CloseReason.STALE for row in rows}
        return await self._execution_closer.close(transaction, reasons, by_operator=True)
