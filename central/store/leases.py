"""Leases: until when a source is taken to be alive for each execution it is bound to.

A lease begins with the binding (`bindings.bind`, `executions.create`), is renewed here, and its
row leaves with the end of the execution, in the same statement (`rows.write_executions`,
`closings.close_executions`). A lapsed lease is renewed like any other: as long as nobody closed
the run or bound it elsewhere, a late renewal is no loss. What is never done here is to bring a
run back that was closed: the source is told, and its own terminal status will still count.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import asyncpg

from central.metrics import Metrics
from central.store.database import Database, Transaction
from central.store.queries import load
from central.store.renewal_availability import RenewalAvailability
from central.wire.leases import LostLease, LostReason, RenewedLeases
from kit.texera.statuses import TERMINAL_CODES

SEEN_PERIOD_S = 60.0
"""How often at most a renewal moves `last_update_time`: upstream's sweep of idle units thinks in
minutes, and each move is a new version of a wide row."""


class Leases:
    def __init__(
        self, database: Database, continuity: RenewalAvailability, metrics: Metrics, lease_s: float
    ) -> None:
        self._database = database
        self._metrics = metrics
        metrics.init_labels(losses=map(str, LostReason))
        self.continuity = continuity
        self._lease_s = lease_s
        self._queries = load("leases")

    async def renew(
        self, source_id: str, execution_ids: Sequence[int], unit_id: int | None = None
    ) -> RenewedLeases:
        """Renews all of them by one statement, and says which the source no longer holds.

        With `unit_id` it speaks for the runs of that unit only.
        """
        work = partial(
            self._renew, source_id=source_id, execution_ids=execution_ids, unit_id=unit_id
        )
        lost = await self._database.run(work)
        lost_reasons = [lease.reason.value for lease in lost]
        self._metrics.renewals(len(execution_ids) - len(lost), lost_reasons)
        return RenewedLeases(self._lease_s, lost)

    async def _renew(
        self,
        transaction: Transaction,
        *,
        source_id: str,
        execution_ids: Sequence[int],
        unit_id: int | None,
    ) -> list[LostLease]:
        renewed = await transaction.fetch(
            self._queries["renew"], source_id, execution_ids, self._lease_s, SEEN_PERIOD_S, unit_id
        )
        missing = set(execution_ids).difference(row["execution_id"] for row in renewed)
        return await self._judge(transaction, source_id, missing, unit_id) if missing else []

    async def _judge(
        self,
        transaction: Transaction,
        source_id: str,
        execution_ids: Iterable[int],
        unit_id: int | None,
    ) -> list[LostLease]:
        """Why these were not renewed. What is open and bound to the source gets a lease."""
        lost: list[LostLease] = []
        unleased: list[asyncpg.Record] = []
        standings = self._queries["standings"]
        for row in await transaction.fetch(standings, source_id, sorted(execution_ids), unit_id):
            reason = why_lost(row)
            if reason is not None:
                lost.append(LostLease(row["execution_id"], reason))
            elif not row["is_leased"]:
                unleased.append(row)
        if unleased:
            await transaction.execute(
                self._queries["lease_anew"],
                source_id,
                [row["execution_id"] for row in unleased],
                [row["computing_unit_id"] for row in unleased],
                self._lease_s,
            )
        return lost


def why_lost(standing: asyncpg.Record) -> LostReason | None:
    """None where the lease is the source's: its row was locked by somebody at that moment.

    To a source that never was bound nothing is told, not even whether there is such a run.
    """
    if not standing["is_bound"]:
        return LostReason.NOT_BOUND
    if standing["status"] is None:
        return LostReason.GONE
    if standing["is_revoked"]:
        is_elsewhere = standing["revoked_reason"] == "taken-over"
        return LostReason.BOUND_ELSEWHERE if is_elsewhere else LostReason.REVOKED
    if standing["status"] in TERMINAL_CODES:
        is_ours = standing["is_provisional"] and standing["ending_status"] == standing["status"]
        return LostReason.CLOSED if is_ours else LostReason.ENDED
    return None
