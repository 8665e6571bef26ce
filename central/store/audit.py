"""Audit log of refused writes: operation, source, user, and why it was refused.

A hostile source must not fill the disk: each source may add a number of rows per hour, and sources
of unknown users share one. `late` is not recorded: it is ordinary and frequent in Texera.

The audit never decides about a call: what cannot be recorded is counted and logged, and the caller
gets its own problem.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
from cachetools import TTLCache

from central import problems
from central.metrics import Metrics
from central.problems import DatabaseUnavailable
from central.store.database import Database, Transaction
from central.store.failures import ROW_POLICIES, StatementError, policy_of
from central.store.queries import load
from kit.http.logs import fields
from kit.http.problems import Problem
from kit.texera.fields import INT32_MAX, is_valid_pg_text

logger = logging.getLogger(__name__)

PER_SOURCE_AND_HOUR = 100
UNKNOWN_PER_HOUR = 1_000
AUDITED_STATUSES = frozenset({403, 404, 409, 422})
"""Missing permissions and conflicts. Other statuses concern form, credentials or load."""
MAX_TRACKED_SOURCES = 50_000
HOUR_S = 3600.0


class Refusal(msgspec.Struct, frozen=True):
    """`user_id` and `execution_id` are None if unknown."""

    user_id: int | None
    execution_id: int | None
    op: str
    problem: Problem


class AuditLog:
    def __init__(
        self, database: Database, metrics: Metrics, *, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._queries = load("audit")
        # Rows that this replica has added per source: above the limit the database is not called.
        self._recorded: TTLCache[str, int] = TTLCache(MAX_TRACKED_SOURCES, HOUR_S, timer=timer)

    async def record(self, source_id: str, refusal: Refusal) -> None:
        """Records a refusal whose own transaction was rolled back."""
        recorded = self._recorded.get(source_id, 0)
        if recorded >= PER_SOURCE_AND_HOUR or refusal.problem.status not in AUDITED_STATUSES:
            return
        self._recorded[source_id] = recorded + 1
        work = partial(self.record_in, source_id=source_id, refusals=[refusal])
        try:
            await self._database.run(work)
        except (DatabaseUnavailable, StatementError) as error:
            self._report(error)

    async def record_isolated(
        self, transaction: Transaction, source_id: str, refusals: Sequence[Refusal]
    ) -> None:
        """As `record_in`, under a savepoint: rows that the database fails are left out."""
        try:
            async with transaction.savepoint():
                await self.record_in(transaction, source_id, refusals)
        except StatementError as error:
            if policy_of(error) not in ROW_POLICIES:
                raise
            self._report(error)

    def _report(self, error: DatabaseUnavailable | StatementError) -> None:
        self._metrics.unrecorded_refusals.inc()
        sqlstate = error.sqlstate if isinstance(error, StatementError) else None
        logger.error(
            "refusal not recorded in the audit log",
            extra=fields(error=type(error).__name__, sqlstate=sqlstate),
        )

    async def record_in(
        self, transaction: Transaction, source_id: str, refusals: Sequence[Refusal]
    ) -> None:
        """Records them in the transaction."""
        recorded = [r for r in refusals if not isinstance(r.problem, problems.Late)]
        if not recorded:
            return
        recorded = recorded[:PER_SOURCE_AND_HOUR]
        await transaction.execute(
            self._queries["add_refusals"],
            source_id,
            PER_SOURCE_AND_HOUR,
            UNKNOWN_PER_HOUR,
            [refusal.user_id for refusal in recorded],
            [_id_or_none(refusal.execution_id) for refusal in recorded],
            [_excerpt(refusal.op, 50) for refusal in recorded],
            [refusal.problem.slug for refusal in recorded],
            [_excerpt(refusal.problem.detail, 500) for refusal in recorded],
        )


def _id_or_none(execution_id: int | None) -> int | None:
    return execution_id if execution_id is not None and 0 < execution_id <= INT32_MAX else None


def _excerpt(text: str, length: int) -> str:
    excerpt = text[:length]
    return excerpt if is_valid_pg_text(excerpt) else ascii(excerpt)[:length]
