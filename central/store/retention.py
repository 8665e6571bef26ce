"""Retention: how long rows of `cu_metadata` are kept, and the purge of older ones.

A purge is many short transactions, each under an advisory lock (one replica at a time), with a
bounded number of rows, skipping locked ones. Rows that may still be needed are never purged:
bindings of open executions, a unit's current boot, cursors of spools that deliver, keys that a
caller may repeat.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from functools import partial

import msgspec

from central.metrics import Metrics
from central.settings import RetentionSettings
from central.store.database import Database, Transaction
from central.store.failures import StatementError
from central.store.queries import load
from kit.http.logs import fields

logger = logging.getLogger(__name__)

CHUNK = 1000


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
        self._retention_s: Mapping[str, float] = {
            "bindings": settings.bindings_s,
            "boots": settings.bindings_s,
            "cursors": settings.cursors_s,
            "idempotency_keys": settings.keys_s,
            "refusals": settings.refusals_s,
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
        for kind, retention_s in self._retention_s.items():
            count = CHUNK
            while count == CHUNK:
                try:
                    count = await self._database.run(
                        partial(self._purge, kind=kind, retention_s=retention_s)
                    )
                except StatementError as error:
                    self._metrics.database_error("isolated")
                    extra = fields(kind=kind, sqlstate=error.sqlstate)
                    logger.exception("a kind of rows is not purged", extra=extra)
                    break  # the other kinds are purged
                purged[kind] += count
                self._metrics.purged(kind, count)
        return purged

    async def _purge(self, transaction: Transaction, *, kind: str, retention_s: float) -> int:
        lock = await transaction.fetch_row(self._queries["try_purge_lock"])
        if lock is None or not lock["is_locked"]:
            return 0
        statements = {
            "bindings": self._queries["purge_bindings"],
            "boots": self._queries["purge_boots"],
            "cursors": self._queries["purge_cursors"],
            "idempotency_keys": self._queries["purge_idempotency_keys"],
            "refusals": self._queries["purge_refusals"],
        }
        return await transaction.execute(statements[kind], retention_s, CHUNK)
