"""Bindings: which source may write to an execution, and for whom.

One live writing source per execution. Another may take over only when the lease of the first
has lapsed or its binding was revoked; the taken-over binding is revoked in the same
transaction, so late entries of the old source are refused from then on.
"""

from functools import partial

from central.auth.user_tokens import User
from central.auth.workload_tokens import UNRESTRICTED, Workload
from central.problems import BoundElsewhere, NotTheExecutionsUser, UserDemoted
from central.store.binding_quota import BindingQuota
from central.store.boots import boot_superseded
from central.store.close_executions import Closings, Reason
from central.store.database import Database, Transaction
from central.store.executions import execution_not_found
from central.store.queries import load
from central.store.warehouses import Warehouses
from central.wire import calls
from central.wire.leases import AbandonedExecutions, AbandonReason, ClosedExecutions
from kit.texera.statuses import status_of_code


class Bindings:
    def __init__(
        self,
        database: Database,
        warehouses: Warehouses,
        closings: Closings,
        open_bindings: BindingQuota,
        lease_s: float,
    ) -> None:
        self._database = database
        self._closings = closings
        self._open_bindings = open_bindings
        self._lease_s = lease_s
        self._queries = load("bindings")
        self._warehouses = warehouses

    async def bind(
        self,
        transaction: Transaction,
        user: User,
        source_id: str,
        execution_id: int,
        boot_id: str | None = None,
        workload: Workload = UNRESTRICTED,
    ) -> calls.BoundExecution:
        """Binds the execution to the source. The same source again renews its lease.

        A boot that central does not know for the execution's unit counts as none. Raises
        `ExecutionNotFound`, `NotTheExecutionsUser`, `UserDemoted`, `WrongComputingUnit`,
        `BootSuperseded`, `RateLimited` or `BoundElsewhere`.
        """
        known_boot = None
        if boot_id is not None:
            known_boot = await transaction.fetch_row(
                self._queries["share_boot"], execution_id, boot_id
            )
        # Two sources that bind at once do it one after the other, at the execution's row.
        await transaction.execute(self._queries["lock_execution"], execution_id)
        row = await transaction.fetch_row(
            self._queries["bindable_execution"],
            execution_id,
            user.user_id,
            user.reads_everything,
            source_id,
        )
        if row is None:
            raise execution_not_found(execution_id)
        if row["user_id"] != user.user_id:
            raise NotTheExecutionsUser("only the execution's own user may write to it")
        if not row["is_active"]:
            raise UserDemoted("the token's user is no longer REGULAR or ADMIN")
        workload.check(row["computing_unit_id"])
        if known_boot is not None and known_boot["is_superseded"]:
            raise boot_superseded(str(boot_id))
        status = status_of_code(row["status_code"])
        warehouse = row["bound_warehouse"]
        if not row["is_bound"]:
            if not status.is_terminal:
                await self._open_bindings.take(transaction, user.user_id, source_id)
            if row["is_bound_elsewhere"]:
                if row["elsewhere_is_live"]:
                    raise BoundElsewhere("another sidecar is writing to this execution")
                await transaction.execute(self._queries["take_over"], execution_id, source_id)
            warehouse = await self._warehouses.of_execution(transaction, execution_id)
        await transaction.execute(
            self._queries["bind"],
            execution_id,
            source_id,
            user.user_id,
            row["workflow_id"],
            row["computing_unit_id"],
            warehouse,
            not status.is_terminal,
            self._lease_s,
            boot_id if known_boot is not None else None,
        )
        return calls.BoundExecution(
            execution_id,
            row["workflow_id"],
            row["computing_unit_id"],
            user.user_id,
            status,
            row["status_code"],
            warehouse,
        )

    async def open_bindings(self, source_id: str, min_age_s: float) -> calls.OpenBindings:
        """What the source may still be writing to, bound at least so long ago."""
        rows = await self._database.read(self._queries["open_bindings"], source_id, min_age_s)
        return calls.OpenBindings([calls.OpenBinding(**dict(row)) for row in rows])

    async def abandon(
        self, source_id: str, abandoned: AbandonedExecutions, unit_id: int | None = None
    ) -> ClosedExecutions:
        """Ends what the source says nobody runs; what is not its own is left alone.

        What it has no record of is ended only if it was bound when it was created: an existing
        run that was bound belongs to a unit that will write to it again. With `unit_id` it
        speaks for the runs of that unit only.
        """
        work = partial(self._abandon, source_id=source_id, abandoned=abandoned, unit_id=unit_id)
        return ClosedExecutions(await self._database.run(work))

    async def _abandon(
        self,
        transaction: Transaction,
        *,
        source_id: str,
        abandoned: AbandonedExecutions,
        unit_id: int | None,
    ) -> list[int]:
        rows = await transaction.fetch(
            self._queries["lock_abandoned"],
            source_id,
            abandoned.execution_ids,
            unit_id,
            abandoned.reason is AbandonReason.ABANDONED_CREATE,
        )
        reasons = {row["execution_id"]: Reason(abandoned.reason) for row in rows}
        await self._closings.close(transaction, reasons)
        return list(reasons)
