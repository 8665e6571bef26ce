"""The log of refused writes: operation, source, user, and why it was refused.

A hostile source must not fill the disk: each source may add a number of rows per hour, so may each
user with whatever keys they make, and sources of unknown users share one. Refusals beyond these
caps are counted by hour, user and slug: nobody can hide an attempt behind others. `late` is not
recorded: it is ordinary and frequent in Texera.

The log never decides about a call: what cannot be recorded is counted and logged, and the caller
gets its own problem.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
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
PER_USER_AND_HOUR = 1_000
UNKNOWN_PER_HOUR = 1_000
RECORDED_STATUSES = frozenset({403, 404, 409, 422})
"""Missing permissions and conflicts. Other statuses concern form, credentials or load."""
MAX_TRACKED_SOURCES = 50_000
MAX_COUNTERS = 10_000
"""Between two calls of `store_counts`. Further users are counted as unknown."""
UNKNOWN_USER = 0
HOUR_S = 3600.0


class Refusal(msgspec.Struct, frozen=True):
    """`user_id` and `execution_id` are None if unknown."""

    user_id: int | None
    execution_id: int | None
    op: str
    problem: Problem


class RefusalFilter(msgspec.Struct, frozen=True):
    """Selects refusals by every field that is not None; `since_s`: in so many seconds until now."""

    user_id: int | None = None
    execution_id: int | None = None
    computing_unit_id: int | None = None
    since_s: float | None = None


class ListedRefusal(msgspec.Struct, frozen=True):
    """`refused_count` refusals; more than one are those of an hour that are beyond the caps."""

    refused_at: datetime
    source_id: str | None
    user_id: int | None
    computing_unit_id: int | None
    execution_id: int | None
    op: str | None
    slug: str
    detail: str | None
    refused_count: int


class RefusalLog:
    def __init__(
        self, database: Database, metrics: Metrics, *, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._queries = load("refusals")
        # Refusals by source and by user: above a cap the database is not called.
        self._recorded: TTLCache[str | int, int] = TTLCache(
            MAX_TRACKED_SOURCES, HOUR_S, timer=timer
        )
        self._counts: Counter[tuple[int, str]] = Counter()

    async def record(self, source_id: str, refusal: Refusal) -> None:
        """Records a refusal whose own transaction was rolled back."""
        if refusal.problem.status not in RECORDED_STATUSES:
            return
        caps: dict[str | int, int] = {source_id: PER_SOURCE_AND_HOUR}
        if refusal.user_id is not None:
            caps[refusal.user_id] = PER_USER_AND_HOUR
        if any(self._recorded.get(key, 0) >= cap for key, cap in caps.items()):
            self._count([refusal])
            return
        for key in caps:
            self._recorded[key] = self._recorded.get(key, 0) + 1
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
            "refusal not recorded",
            extra=fields(error=type(error).__name__, sqlstate=sqlstate),
        )

    async def record_in(
        self, transaction: Transaction, source_id: str, refusals: Sequence[Refusal]
    ) -> None:
        """Records them in the transaction; those beyond a cap are counted once it has committed."""
        refusals = [r for r in refusals if not isinstance(r.problem, problems.Late)]
        if not refusals:
            return
        recorded, excess = refusals[:PER_SOURCE_AND_HOUR], list(refusals[PER_SOURCE_AND_HOUR:])
        rows = await transaction.fetch(
            self._queries["add_refusals"],
            source_id,
            PER_SOURCE_AND_HOUR,
            PER_USER_AND_HOUR,
            UNKNOWN_PER_HOUR,
            [refusal.user_id for refusal in recorded],
            [_id_or_none(refusal.execution_id) for refusal in recorded],
            [_excerpt(refusal.op, 50) for refusal in recorded],
            [refusal.problem.slug for refusal in recorded],
            [_excerpt(refusal.problem.detail, 500) for refusal in recorded],
        )
        excess += [recorded[row["ordinal"] - 1] for row in rows]
        if excess:
            transaction.after_commit(partial(self._count, excess))

    def _count(self, refusals: Iterable[Refusal]) -> None:
        for refusal in refusals:
            key = (refusal.user_id or UNKNOWN_USER, refusal.problem.slug)
            if key not in self._counts and len(self._counts) >= MAX_COUNTERS:
                key = (UNKNOWN_USER, refusal.problem.slug)
            self._counts[key] += 1

    async def store_counts(self) -> None:
        """Adds what was counted to the database. Raises `DatabaseUnavailable`; nothing is lost."""
        counts, self._counts = self._counts, Counter()
        if not counts:
            return
        keys = list(counts)
        try:
            await self._database.execute_returning(
                self._queries["add_counts"],
                [user_id for user_id, _ in keys],
                [slug for _, slug in keys],
                [counts[key] for key in keys],
            )
        except BaseException:
            self._counts += counts
            raise

    async def find(self, filters: RefusalFilter, limit: int) -> list[ListedRefusal]:
        """The newest first."""
        rows = await self._database.read(
            self._queries["list_refusals"], *msgspec.structs.astuple(filters), limit
        )
        return [ListedRefusal(**dict(row)) for row in rows]


def _id_or_none(execution_id: int | None) -> int | None:
    return execution_id if execution_id is not None and 0 < execution_id <= INT32_MAX else None


def _excerpt(text: str, length: int) -> str:
    excerpt = text[:length]
    return excerpt if is_valid_pg_text(excerpt) else ascii(excerpt)[:length]
