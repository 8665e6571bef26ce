"""Retention: how long rows of our own are kept, and the purge of those that are older.

A purge is many short transactions, each under an advisory lock that lets one replica do it, each
taking a bounded number of rows and skipping what somebody holds. What may still be needed is
never among them: the bindings of open runs, a unit's current boot, the cursor of a spool that
has delivered lately, a key that a caller may still repeat.
"""

from collections.abc import Mapping
from datetime import datetime
from functools import partial

import msgspec

from central.metrics import Metrics
from central.settings import RetentionSettings
from central.store.database import Database, Transaction
from central.store.queries import load

CHUNK = 1000


class Kept(msgspec.Struct, frozen=True):
    """What there is of one kind, and how long it is kept."""

    kind: str
    rows: int
    oldest_at: datetime | None
    kept_for_s: float


class Retention:
    def __init__(self, database: Database, metrics: Metrics, settings: RetentionSettings) -> None:
        self._database = database
        self._metrics = metrics
        self._keep_s: Mapping[str, float] = {
            "bindings": settings.bindings_s,
            "boots": settings.bindings_s,
            "cursors": settings.cursors_s,
            "idempotency_keys": settings.keys_s,
            "refusals": settings.refusals_s,
        }
        self._queries = load("retention")

    async def report(self) -> list[Kept]:
        rows = await self._database.read(self._queries["report"])
        return [
            Kept(row["kind"], row["row_count"], row["oldest_at"], self._keep_s[row["kind"]])
            for row in rows
        ]

    async def purge(self) -> dict[str, int]:
        """Purges all kinds to the end. Answers how many rows of each have gone."""
        purged = dict.fromkeys(self._keep_s, 0)
        for kind, keep_s in self._keep_s.items():
            count = CHUNK
            while count == CHUNK:
                count = await self._database.run(partial(self._purge, kind=kind, keep_s=keep_s))
                purged[kind] += count
                self._metrics.purged(kind, count)
        return purged

    async def _purge(self, transaction: Transaction, *, kind: str, keep_s: float) -> int:
        ours = await transaction.fetch_row(self._queries["try_purge"])
        if ours is None or not ours["is_ours"]:
            return 0
        statements = {
            "bindings": self._queries["purge_bindings"],
            "boots": self._queries["purge_boots"],
            "cursors": self._queries["purge_cursors"],
            "idempotency_keys": self._queries["purge_idempotency_keys"],
            "refusals": self._queries["purge_refusals"],
        }
        return await transaction.execute(statements[kind], keep_s, CHUNK)
