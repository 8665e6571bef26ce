"""Orphans: runs whose sidecar is silent, or whose unit says that they are over. SQL only: what
is to be done with them is `central/closer.py`'s to decide."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from central.store.closings import Closings, Reason
from central.store.database import Database, Transaction
from central.store.queries import load

BOOT_HORIZON_S = 3600.0
"""A boot's own call closes what it finds; what it could not see shows within seconds."""


@dataclass(frozen=True)
class Orphans:
    """What one look found. `silent` and `over` hold open executions with their reasons."""

    silent: Mapping[int, Reason] = field(default_factory=dict)
    """Their leases have lapsed, and nothing else speaks against them."""
    over: Mapping[int, Reason] = field(default_factory=dict)
    """Their unit was terminated, or has booted anew."""
    lease_count: int = 0
    """All leases, the lapsed among them; counted only if more lapsed than `few`."""


class OrphanStore:
    """Each method is a short transaction, and does nothing while another replica is at it."""

    def __init__(self, database: Database, closings: Closings, lease_s: float) -> None:
        self._database = database
        self._closings = closings
        self._lease_s = lease_s
        self._queries = load("orphans")

    async def look(self, few: int) -> Orphans | None:
        """What there is to be closed; None if another replica is looking or closing."""
        return await self._database.run(partial(self._look, few=few))

    async def _look(self, transaction: Transaction, *, few: int) -> Orphans | None:
        if not await self._is_ours(transaction):
            return None
        await transaction.execute(self._queries["drop_ended_leases"])
        silent, over = await self._find(transaction)
        count = 0
        if len(silent) > few:
            row = await transaction.fetch_row(self._queries["count_leases"])
            count = row["lease_count"] if row is not None else 0
        return Orphans(silent, over, count)

    async def _find(self, transaction: Transaction) -> tuple[dict[int, Reason], dict[int, Reason]]:
        silent: dict[int, Reason] = {}
        over: dict[int, Reason] = {}
        for row in await transaction.fetch(self._queries["find_silent"], self._lease_s):
            if row["is_terminated"]:
                over[row["execution_id"]] = Reason.UNIT_TERMINATED
            else:
                silent[row["execution_id"]] = Reason.LEASE_LAPSED
        for row in await transaction.fetch(
            self._queries["find_ended_units"], self._lease_s, BOOT_HORIZON_S
        ):
            execution_id, is_terminated = row["execution_id"], row["is_terminated"]
            over[execution_id] = Reason.UNIT_TERMINATED if is_terminated else Reason.SUPERSEDED_BOOT
            silent.pop(execution_id, None)
        return silent, over

    async def close(self, reasons: Mapping[int, Reason]) -> int | None:
        """Closes those that are still what they were found to be. Answers how many that were.

        None if another replica is looking or closing.
        """
        return await self._database.run(partial(self._close, reasons=reasons))

    async def _close(
        self, transaction: Transaction, *, reasons: Mapping[int, Reason]
    ) -> int | None:
        if not await self._is_ours(transaction):
            return None
        rows = await transaction.fetch(
            self._queries["lock_orphans"],
            list(reasons),
            [reason is Reason.LEASE_LAPSED for reason in reasons.values()],
        )
        locked = {row["execution_id"]: reasons[row["execution_id"]] for row in rows}
        await self._closings.close(transaction, locked)
        return len(locked)

    async def _is_ours(self, transaction: Transaction) -> bool:
        row = await transaction.fetch_row(self._queries["try_closer"])
        return row is not None and bool(row["is_ours"])
