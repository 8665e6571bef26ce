"""Orphans: runs whose sidecar is silent, or whose unit says that they are over. SQL only: what
is to be done with them is `central/jobs/orphan_closer.py`'s to decide."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import asyncpg

from central.store.close_executions import Closings, Reason
from central.store.database import Database, Transaction
from central.store.queries import load
from central.store.renewal_availability import longest_break_s

BOOT_HORIZON_S = 3600.0
"""A boot's own call closes what it finds; what it could not see shows within seconds."""


@dataclass(frozen=True)
class Orphans:
    """What one look found. `silent` and `over` hold open executions with their reasons."""

    silent: Mapping[int, Reason] = field(default_factory=dict)
    """Their leases have lapsed, and nothing else speaks against them."""
    over: Mapping[int, Reason] = field(default_factory=dict)
    """Their unit was terminated, or has booted anew."""
    unheard_count: int = 0
    """How many sidecars' silence nothing explains: the lapsed leases of units that were not
    terminated, and those that have gone without a renewal for half their length."""
    lease_count: int = 0
    """All leases; counted only if more than `few` are unheard, and no further than needed."""


class OrphanStore:
    """Each method is a short transaction, and does nothing while another replica is at it."""

    def __init__(self, database: Database, closings: Closings, lease_s: float) -> None:
        self._database = database
        self._closings = closings
        self._lease_s = lease_s
        self._queries = load("orphans")

    async def look(self, few: int, one_in: int) -> Orphans | None:
        """What there is to be closed; None if another replica is looking or closing.

        Leases are counted as far as it takes to know whether more than one in so many, and more
        than a few, are unheard.
        """
        return await self._database.run(partial(self._look, few=few, one_in=one_in))

    async def _look(self, transaction: Transaction, *, few: int, one_in: int) -> Orphans | None:
        if not await self._is_ours(transaction):
            return None
        await transaction.execute(self._queries["drop_ended_leases"])
        silent, over, unexplained_count = await self._find(transaction)
        if not silent:
            return Orphans(silent, over)
        overdue = await transaction.fetch_row(self._queries["count_overdue"], self._lease_s / 2)
        unheard_count = unexplained_count + (overdue["overdue_count"] if overdue else 0)
        if unheard_count <= few:
            return Orphans(silent, over, unheard_count)
        counted = await transaction.fetch_row(self._queries["count_leases"], unheard_count * one_in)
        return Orphans(silent, over, unheard_count, counted["lease_count"] if counted else 0)

    async def _find(
        self, transaction: Transaction
    ) -> tuple[dict[int, Reason], dict[int, Reason], int]:
        """Who is silent, who is over, and of how many silent ones nothing says why."""
        silent: dict[int, Reason] = {}
        over: dict[int, Reason] = {}
        explained: set[int] = set()
        for row in await self._find_silent(transaction, None):
            if row["is_terminated"]:
                over[row["execution_id"]] = Reason.UNIT_TERMINATED
            else:
                silent[row["execution_id"]] = Reason.LEASE_LAPSED
            if row["is_explained"]:
                explained.add(row["execution_id"])
        for row in await transaction.fetch(
            self._queries["find_ended_units"], self._lease_s, BOOT_HORIZON_S
        ):
            execution_id, is_terminated = row["execution_id"], row["is_terminated"]
            over[execution_id] = Reason.UNIT_TERMINATED if is_terminated else Reason.SUPERSEDED_BOOT
            silent.pop(execution_id, None)
        return silent, over, len(silent.keys() - explained)

    async def lapsed(self, unit_id: int | None) -> list[int]:
        """Open executions, of one unit or of all, whose leases have lapsed, in id order."""
        return await self._database.run(partial(self._lapsed, unit_id=unit_id))

    async def _lapsed(self, transaction: Transaction, *, unit_id: int | None) -> list[int]:
        rows = await self._find_silent(transaction, unit_id)
        return [row["execution_id"] for row in rows]

    async def _find_silent(
        self, transaction: Transaction, unit_id: int | None
    ) -> list[asyncpg.Record]:
        return await transaction.fetch(self._queries["find_silent"], self._lease_s, unit_id)

    async def close(
        self, reasons: Mapping[int, Reason], *, operator_override: bool = False
    ) -> list[int] | None:
        """Closes those that are still what they were found to be. Answers which that were.

        None if another replica is looking or closing. Silence is believed only while renewals
        are served, or at a human's word.
        """
        lease_s = None if operator_override else self._lease_s
        return await self._database.run(partial(self._close, reasons=reasons, lease_s=lease_s))

    async def _close(
        self, transaction: Transaction, *, reasons: Mapping[int, Reason], lease_s: float | None
    ) -> list[int] | None:
        if not await self._is_ours(transaction):
            return None
        rows = await transaction.fetch(
            self._queries["lock_orphans"],
            list(reasons),
            [reason is Reason.LEASE_LAPSED for reason in reasons.values()],
            lease_s,
            longest_break_s(self._lease_s),
        )
        locked = {row["execution_id"]: reasons[row["execution_id"]] for row in rows}
        await self._closings.close(transaction, locked)
        return sorted(locked)

    async def _is_ours(self, transaction: Transaction) -> bool:
        row = await transaction.fetch_row(self._queries["try_closer"])
        return row is not None and bool(row["is_ours"])
