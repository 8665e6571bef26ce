"""Executions: created with their binding in one statement, read by who may read the workflow."""

from collections.abc import Sequence

import asyncpg

from central.auth.user_tokens import User
from central.problems import (
    ComputingUnitForbidden,
    ComputingUnitNotFound,
    ComputingUnitTerminated,
    ExecutionNotFound,
    NoExecution,
    UserDemoted,
    WorkflowForbidden,
)
from central.store.binding_cache import BindingCache
from central.store.binding_quota import BindingQuota
from central.store.boots import boot_superseded
from central.store.database import Database, Transaction
from central.store.queries import load
from central.store.versions import Versions, workflow_not_found
from central.store.warehouses import Warehouses
from central.wire import calls
from kit.http.problems import Problem
from kit.texera.statuses import Status, status_of_code

DEFAULT_NAME = "Untitled Execution"

_COLUMNS = [name for name in calls.Execution.__struct_fields__ if name != "status"]


def execution_not_found(execution_id: int) -> ExecutionNotFound:
    """The same words whether it does not exist or the caller may not know that it does."""
    return ExecutionNotFound(f"there is no execution {execution_id} that you may read")


class Executions:
    """Every statement judges the caller itself; no row of what they may not read leaves here."""

    def __init__(
        self,
        database: Database,
        warehouses: Warehouses,
        running: BindingCache,
        open_bindings: BindingQuota,
        lease_s: float,
    ) -> None:
        self._database = database
        self._running = running
        self._open_bindings = open_bindings
        self._warehouses = warehouses
        self._versions = Versions(database)
        self._lease_s = lease_s
        self._queries = load("executions")

    async def create(
        self, transaction: Transaction, user: User, source_id: str, request: calls.ExecutionRequest
    ) -> calls.NewExecution:
        """The new run, READY and bound to the source. Times are the database's."""
        await self._open_bindings.take(transaction, user.user_id, source_id)
        warehouse = None
        if request.warehouse_id is not None:
            warehouse = await self._warehouses.of_user(transaction, user, request.warehouse_id)
        row = await self._insert(transaction, user, source_id, request)
        if row["execution_id"] is None and row["version_id"] is None and row["reads_workflow"]:
            await self._versions.create_first(transaction, request.workflow_id)
            row = await self._insert(transaction, user, source_id, request)
        if row["execution_id"] is None:
            raise _why_not_created(row, user, request)
        execution_id = row["execution_id"]
        if warehouse is not None:
            await transaction.execute(
                self._queries["set_warehouse"], execution_id, request.warehouse_id
            )
            await transaction.execute(
                self._queries["set_binding_warehouse"], execution_id, source_id, warehouse
            )
        self._running.created(
            source_id,
            execution_id,
            user_id=user.user_id,
            workflow_id=request.workflow_id,
            warehouse=warehouse,
        )
        return calls.NewExecution(
            execution_id,
            request.workflow_id,
            row["version_id"],
            request.computing_unit_id,
            user.user_id,
            Status.READY,
            Status.READY.code,
            row["started_at"],
            warehouse,
        )

    async def _insert(
        self, transaction: Transaction, user: User, source_id: str, request: calls.ExecutionRequest
    ) -> asyncpg.Record:
        row = await transaction.fetch_row(
            self._queries["create_execution"],
            user.user_id,
            request.workflow_id,
            request.computing_unit_id,
            request.name or DEFAULT_NAME,
            request.environment_version,
            source_id,
            self._lease_s,
            request.boot_id,
        )
        assert row is not None  # noqa: S101 (the statement always answers one row)
        return row

    async def read(
        self, user: User, execution_id: int, workflow_id: int | None = None
    ) -> calls.Execution:
        """The row; with `workflow_id` only if it is an execution of that workflow."""
        rows = await self._database.read(
            self._queries["read_execution"],
            execution_id,
            user.user_id,
            user.reads_everything,
            workflow_id,
        )
        if not rows:
            raise execution_not_found(execution_id)
        return execution_of(rows[0])

    async def list(
        self,
        user: User,
        workflow_id: int,
        *,
        computing_unit_id: int | None = None,
        status_codes: Sequence[int] | None = None,
        before: int | None = None,
        limit: int,
    ) -> calls.ExecutionPage:
        """Newest first; one more than asked is looked at, to know whether there are more."""
        rows = await self._database.read(
            self._queries["list_executions"],
            workflow_id,
            user.user_id,
            user.reads_everything,
            computing_unit_id,
            status_codes,
            before,
            limit + 1,
        )
        if not rows:
            raise workflow_not_found(workflow_id)
        found = [execution_of(row) for row in rows if row["execution_id"] is not None]
        more = len(found) > limit
        found = found[:limit]
        return calls.ExecutionPage(found, found[-1].execution_id if more else None)

    async def latest(
        self, user: User, workflow_id: int, computing_unit_id: int | None
    ) -> calls.Execution:
        page = await self.list(user, workflow_id, computing_unit_id=computing_unit_id, limit=1)
        if not page.executions:
            raise NoExecution(f"workflow {workflow_id} has no execution there")
        return page.executions[0]


def execution_of(row: asyncpg.Record) -> calls.Execution:
    """A row that has the columns of `list_executions`, and maybe others."""
    columns = {name: row[name] for name in _COLUMNS}
    return calls.Execution(status=status_of_code(row["status_code"]), **columns)


def _why_not_created(row: asyncpg.Record, user: User, request: calls.ExecutionRequest) -> Problem:
    """The first reason, in the order in which a caller may learn of them.

    Whether something exists is for those to know who hold a grant on it, and for ADMIN.
    """
    workflow, unit = request.workflow_id, request.computing_unit_id
    if not row["is_active"]:
        return UserDemoted("the token's user is no longer REGULAR or ADMIN")
    if not row["reads_workflow"]:
        if user.reads_everything and row["workflow_exists"]:
            return WorkflowForbidden(f"running workflow {workflow} takes a grant on it")
        return workflow_not_found(workflow)
    if row["unit_privilege"] is None and not (user.reads_everything and row["unit_exists"]):
        return ComputingUnitNotFound(f"there is no computing unit {unit} that you may use")
    if row["unit_privilege"] != "WRITE":
        return ComputingUnitForbidden(f"running on computing unit {unit} takes a WRITE grant on it")
    if row["unit_is_terminated"]:
        return ComputingUnitTerminated(f"computing unit {unit} has been terminated")
    return boot_superseded(str(request.boot_id))
