"""Retention: how long rows of `cu_metadata` are kept, and the purge of older ones.

A purge is many short transactions, each under an advisory lock (one replica at a time), with a
bounded number of rows, skipping locked ones. Rows that may still be needed are never purged:
bindings of open executions, a unit's current boot, cursors of spools that deliver, keys that a
caller may repeat. Rows that the database fails to delete stay and are counted, and the others of
their kind are purged.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial

import msgspec

from central.metrics import Metrics
from central.settings import RetentionSettings
from central.store.database import Database, Transaction
from central.store.failing_rows import FailingRows, bisect
from central.store.failures import StatementError
from central.store.queries import load

CHUNK = 1000
MAX_FAILING = 100
"""After a chunk with so many failing rows a kind is left to the next purge."""


class RetainedRows(msgspec.Struct, frozen=True):
    """Rows of one kind, and how long they are kept."""

    kind: str
    rows: int
    oldest_at: datetime | None
    kept_for_s: float


class Retention:
    def __init__(self, database: Database, metrics: Metrics, settings: RetentionSettings) -> None:
        self._database = database
        self._metrics = metrics
        self._failing_rows = FailingRows(metrics)
        self._retention_s: Mapping[str, float] = {
            "bindings": settings.bindings_s,
            "boots": settings.bindings_s,
            "cursors": settings.cursors_s,
            "idempotency_keys": settings.keys_s,
            "refusals": settings.refusals_s,
            "source_certificates": settings.bindings_s,
        }
        self._queries = load("retention")

    async def report(self) -> list[RetainedRows]:
        rows = await self._database.read(self._queries["report"])
        return [
            RetainedRows(
                row["kind"], row["row_count"], row["oldest_at"], self._retention_s[row["kind"]]
            )
            for row in rows
        ]

    async def purge(self) -> dict[str, int]:
        """Purges all kinds completely. Returns the number of purged rows by kind."""
        purged = dict.fromkeys(self._retention_s, 0)
        for kind in self._retention_s:
            failing, count = 0, CHUNK
            while count == CHUNK and failing < MAX_FAILING:
                work = partial(self._purge, kind=kind, first=failing)
                deleted, failed = await self._database.run(work)
                failing, count = failing + failed, deleted + failed
                purged[kind] += deleted
                self._metrics.purged(kind, deleted)
        return purged

    async def _purge(self, transaction: Transaction, *, kind: str, first: int) -> tuple[int, int]:
        """How many rows were deleted, and how many failed. `first` of the oldest are left out."""
        lock = await transaction.fetch_row(self._queries["try_purge_lock"])
        if lock is None or not lock["is_locked"]:
            return 0, 0

        async def delete(places: Sequence[int]) -> tuple[int, int]:
            return await self._delete(transaction, kind, places[-1], len(places)), 0

        async def isolate(place: int, error: StatementError) -> tuple[int, int]:
            self._failing_rows.report("old row not purged", error, kind=kind)
            return 0, 1

        # By age, the youngest first: what is deleted moves none of the older.
        places = range(first + CHUNK - 1, first - 1, -1)
        parts = await bisect(transaction, places, delete, isolate)
        return sum(deleted for deleted, _ in parts), sum(failed for _, failed in parts)

    async def _delete(self, transaction: Transaction, kind: str, first: int, limit: int) -> int:
        statements = {
            "bindings": self._queries["purge_bindings"],
            "boots": self._queries["purge_boots"],
            "cursors": self._queries["purge_cursors"],
            "idempotency_keys": self._queries["purge_idempotency_keys"],
            "refusals": self._queries["purge_refusals"],
            "source_certificates": self._queries["purge_source_certificates"],
        }
        return await transaction.execute(statements[kind], self._retention_s[kind], limit, first)
