"""The audit of refused writes: what was tried, by which source, for whom, and why it was not done.

An audit, not a log: a hostile source must not fill the disk, so each has a number of rows an
hour, and sources whose user nobody knows share one. `late` is left out: ordinary in Texera,
and often.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
from cachetools import TTLCache

from central import problems
from central.store.database import Database, Transaction
from central.store.queries import load
from kit.http.problems import Problem
from kit.texera.fields import INT32_MAX, is_valid_pg_text

PER_SOURCE_AND_HOUR = 100
UNKNOWN_PER_HOUR = 1_000
AUDITED_STATUSES = frozenset({403, 404, 409, 422})
"""What a caller may not do, or what conflicts. Others are about form, credentials or load."""
REMEMBERED_SOURCES = 50_000
HOUR_S = 3600.0


class Refusal(msgspec.Struct, frozen=True):
    """`user_id` and `execution_id` are None where nothing tells them."""

    user_id: int | None
    execution_id: int | None
    op: str
    problem: Problem


class AuditLog:
    def __init__(self, database: Database, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._queries = load("audit")
        # What this replica has noted of each source: once that is all it may, nothing is asked.
        self._noted: TTLCache[str, int] = TTLCache(REMEMBERED_SOURCES, HOUR_S, timer=timer)

    async def note(self, source_id: str, refusal: Refusal) -> None:
        """Keeps a refusal whose own transaction is undone. Raises `DatabaseUnavailable`."""
        noted = self._noted.get(source_id, 0)
        if noted >= PER_SOURCE_AND_HOUR or refusal.problem.status not in AUDITED_STATUSES:
            return
        self._noted[source_id] = noted + 1
        await self._database.run(partial(self.add, source_id=source_id, refusals=[refusal]))

    async def add(
        self, transaction: Transaction, source_id: str, refusals: Sequence[Refusal]
    ) -> None:
        """Keeps them with the transaction."""
        kept = [r for r in refusals if not isinstance(r.problem, problems.Late)]
        if not kept:
            return
        kept = kept[:PER_SOURCE_AND_HOUR]
        await transaction.execute(
            self._queries["add_refusals"],
            source_id,
            PER_SOURCE_AND_HOUR,
            UNKNOWN_PER_HOUR,
            [refusal.user_id for refusal in kept],
            [_id_or_none(refusal.execution_id) for refusal in kept],
            [_excerpt(refusal.op, 50) for refusal in kept],
            [refusal.problem.slug for refusal in kept],
            [_excerpt(refusal.problem.detail, 500) for refusal in kept],
        )


def _id_or_none(execution_id: int | None) -> int | None:
    return execution_id if execution_id is not None and 0 < execution_id <= INT32_MAX else None


def _excerpt(text: str, length: int) -> str:
    excerpt = text[:length]
    return excerpt if is_valid_pg_text(excerpt) else ascii(excerpt)[:length]
