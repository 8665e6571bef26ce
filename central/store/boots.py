"""Boots: a computing unit's master process says that it is a new one.

Its predecessors' runs cannot go on: they become FAILED here and now, in id order, waiting for
whoever holds one of their rows. A binding is made under the boot that its sidecar names, and
holds that boot's row until it is committed; a newer boot first supersedes the row, which waits
for those, and then looks. So no run begins under a boot that has been superseded, and none that
began before is overlooked.
"""

from central.auth.user_tokens import User
from central.problems import (
    BootSuperseded,
    ComputingUnitForbidden,
    ComputingUnitNotFound,
    UserDemoted,
)
from central.store.close_executions import Closings, Reason
from central.store.database import Transaction
from central.store.queries import load
from central.wire.leases import ClosedExecutions


def boot_superseded(boot_id: str) -> BootSuperseded:
    return BootSuperseded(f"the unit has had a newer boot than {boot_id}")


class Boots:
    def __init__(self, closings: Closings) -> None:
        self._closings = closings
        self._queries = load("boots")

    async def begin(
        self, transaction: Transaction, user: User, source_id: str, unit_id: int, boot_id: str
    ) -> ClosedExecutions:
        """The runs that ended with the boots before this one; the same boot, the same answer.

        Raises `BootSuperseded`, or the problem for which the user may not act on the unit.
        """
        await self._check_unit(transaction, user, unit_id)
        await transaction.execute(self._queries["lock_unit"], unit_id)
        known = await transaction.fetch_row(self._queries["find_boot"], unit_id, boot_id)
        if known is not None:
            if known["is_superseded"]:
                raise boot_superseded(boot_id)
            return ClosedExecutions(known["closed"])
        await transaction.execute(self._queries["supersede"], unit_id)
        await transaction.execute(self._queries["begin_boot"], unit_id, boot_id, source_id)
        rows = await transaction.fetch(self._queries["lock_earlier_runs"], unit_id, boot_id)
        reasons = {row["execution_id"]: Reason.SUPERSEDED_BOOT for row in rows}
        await self._closings.close(transaction, reasons)
        await transaction.execute(self._queries["store_closed"], unit_id, boot_id, list(reasons))
        return ClosedExecutions(list(reasons))

    async def _check_unit(self, transaction: Transaction, user: User, unit_id: int) -> None:
        """A boot ends runs: only who may run on the unit may say that it booted."""
        row = await transaction.fetch_row(self._queries["unit_standing"], user.user_id, unit_id)
        assert row is not None  # noqa: S101 (the statement always answers one row)
        if not row["is_active"]:
            raise UserDemoted("the token's user is no longer REGULAR or ADMIN")
        if row["privilege"] is None and not (user.reads_everything and row["unit_exists"]):
            raise ComputingUnitNotFound(f"there is no computing unit {unit_id} that you may use")
        if row["privilege"] != "WRITE":
            raise ComputingUnitForbidden(f"acting on computing unit {unit_id} takes a WRITE grant")
