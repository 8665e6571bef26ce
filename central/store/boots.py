"""Boots: a computing unit reports that it runs a new master process.

The executions of earlier boots cannot go on. They are closed as FAILED in the transaction that
registers the boot, in id order; their row locks are waited for.

Binding under a boot and superseding it exclude each other:

    bind, create     share-lock the boot's row ........... until commit
    register         supersede: waits for those locks, then lists the executions to close

So that no execution starts under a superseded boot, and none that started before is missed.

A boot ends other users' runs, and refuses what the unit's own sidecar creates under its boot until
that registers another one. A WRITE grant and a key of one's own making are not enough for that
(ADR 63): a boot counts from the unit's owner, from the source that registered the current boot,
from a pod that is proven to be the unit's, and, while the unit has no boot, from the source that
holds all of its leases.
"""

from central.domain.callers import UNRESTRICTED, User, Workload
from central.problems import BootForbidden
from central.store.access import boot_superseded, check_unit_writable, user_demoted
from central.store.database import Transaction
from central.store.orphans import CloseReason, ExecutionCloser
from central.store.queries import load
from central.wire.leases import ClosedExecutions


class Boots:
    def __init__(self, execution_closer: ExecutionCloser) -> None:
        self._execution_closer = execution_closer
        self._queries = load("boots")

    async def register(
        self,
        transaction: Transaction,
        user: User,
        source_id: str,
        unit_id: int,
        boot_id: str,
        workload: Workload = UNRESTRICTED,
    ) -> ClosedExecutions:
        """The executions closed by this boot; a repeated call gets the same response.

        Raises `BootSuperseded`, or the problem for which the user may not act on the unit.
        """
        may_begin = await self._check_unit(transaction, user, source_id, unit_id)
        await transaction.execute(self._queries["lock_unit"], unit_id)
        known = await transaction.fetch_row(self._queries["find_boot"], unit_id, boot_id)
        if known is not None:
            if known["is_superseded"]:
                raise boot_superseded(boot_id)
            return ClosedExecutions(known["closed"])
        if not may_begin and workload.enforced_unit_id != unit_id:
            raise BootForbidden(
                f"a boot of computing unit {unit_id} counts from the sidecar that registered the"
                " current one, or with the token of the unit's owner"
            )
        await transaction.execute(self._queries["supersede"], unit_id)
        await transaction.execute(
            self._queries["insert_boot"], unit_id, boot_id, source_id, user.user_id
        )
        rows = await transaction.fetch(self._queries["lock_earlier_runs"], unit_id, boot_id)
        reasons = {row["execution_id"]: CloseReason.SUPERSEDED_BOOT for row in rows}
        closed = await self._execution_closer.close(transaction, reasons)
        await transaction.execute(self._queries["store_closed"], unit_id, boot_id, closed)
        return ClosedExecutions(closed)

    async def _check_unit(
        self, transaction: Transaction, user: User, source_id: str, unit_id: int
    ) -> bool:
        """Whether a boot of the source and user counts; both need a WRITE grant on the unit."""
        row = await transaction.fetch_row(
            self._queries["unit_access"], user.user_id, unit_id, source_id
        )
        assert row is not None  # noqa: S101 (the statement returns one row)
        if not row["is_active"]:
            raise user_demoted()
        check_unit_writable(row, user, unit_id)
        return bool(row["is_owner"] or row["source_holds_unit"])
