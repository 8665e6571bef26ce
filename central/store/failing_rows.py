"""Rows that the database fails: found by bisection under savepoints, counted and logged.

Such a row (a trigger of somebody's raises, a constraint is not known to this release) aborts the
statement that writes it, together with all other rows of that statement. They must not wait for it:

    write all --fails--> write one half, then the other ... --fails for one row--> isolate it

One failing row of n costs some 2 log2(n) statements; rows that do not fail cost one savepoint.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from cachetools import TTLCache

from central.metrics import Metrics
from central.store.database import Transaction
from central.store.failures import ROW_POLICIES, StatementError, policy_of
from kit.http.logs import fields

logger = logging.getLogger(__name__)

R = TypeVar("R")
T = TypeVar("T")

LOG_DEDUP_S = 3600.0
MAX_TRACKED_ROWS = 20_000


async def bisect(
    transaction: Transaction,
    rows: Sequence[R],
    write: Callable[[Sequence[R]], Awaitable[T]],
    isolate: Callable[[R, StatementError], Awaitable[T]],
) -> list[T]:
    """What `write` returns for each part of `rows` that was written at once, in their order.

    For a row that fails alone it is what `isolate` returns. A failed `write` is undone in the
    database, and only there. The caller has to check deferred constraints at once, or they fail
    the commit. Raises a `StatementError` that is not a row's.
    """
    try:
        async with transaction.savepoint():
            return [await write(rows)]
    except StatementError as error:
        if policy_of(error) not in ROW_POLICIES:
            raise
        if len(rows) == 1:
            return [await isolate(rows[0], error)]
    middle = len(rows) // 2
    first = await bisect(transaction, rows[:middle], write, isolate)
    return first + await bisect(transaction, rows[middle:], write, isolate)


class FailingRows:
    """Counts every failure of a row, and logs each row, or the call that names it, once an hour."""

    def __init__(self, metrics: Metrics, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._logged: TTLCache[object, bool] = TTLCache(MAX_TRACKED_ROWS, LOG_DEDUP_S, timer=timer)

    def report(self, effect: str, error: StatementError, **row: int | str) -> None:
        """`effect` is what the failure has kept from happening; `row` goes to the log's fields."""
        self._metrics.database_error("isolated")
        key = (effect, *row.values())
        if key not in self._logged:
            self._logged[key] = True
            logger.error(
                "%s: the database fails its row",
                effect,
                extra=fields(sqlstate=error.sqlstate, **row),
            )
