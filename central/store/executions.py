"""Executions: created with their binding in one statement, read by who may read the workflow.

Every execution belongs to a version of its workflow. A workflow that was never saved has none; its
first execution makes one, as in Texera.
"""

from collections.abc import Sequence
from typing import NoReturn

import asyncpg

from central.domain.callers import User
from central.problems import (
    ComputingUnitTerminated,
    NoExecution,
    NoVersion,
    WorkflowForbidden,
)
from central.store.access import (
    boot_superseded,
    check_unit_writable,
    execution_not_found,
    user_demoted,
    workflow_not_found,
)
from central.store.bindings import BindingCache, BindingQuota
from central.store.database import Database, Transaction
from central.store.queries import load
from central.store.warehouses import Warehouses
from central.wire import calls
from kit.texera.statuses import Status, status_of_code

DEFAULT_NAME = "Untitled Execution"

_COLUMNS = [name for name in calls.Execution.__struct_fields__ if name != "status"]


class Executions:
    """Every statement judges its caller: rows that they may not read never leave the database."""

    def __init__(
        self,
        database: Database,
        warehouses: Warehouses,
        binding_cache: BindingCache,
        quota: BindingQuota,
        lease_s: float,
    ) -> None:
        self._database = database
        self._binding_cache = binding_cache
        self._quota = quota
        self._warehouses = warehouses
        self._versions = Versions(database)
        self._lease_s = lease_s
        self._queries = load("executions")

    async def create(
        self, transaction: Transaction, user: User, source_id: str, request: calls.ExecutionRequest
    ) -> calls.NewExecution:
        """The new execution, READY and bound to the source. Times are the database's."""
        await self._quota.acquire(transaction, user.user_id, source_id)
        warehouse = None
        if request.warehouse_id is not None:
            warehouse = await self._warehouses.of_user(transaction, user, request.warehouse_id)
        row = await self._insert(transaction, user, source_id, request)
        if row["execution_id"] is None and row["version_id"] is None and row["reads_workflow"]:
            await self._versions.create_first(transaction, request.workflow_id)
            row = await self._insert(transaction, user, source_id, request)
        if row["execution_id"] is None:
            _raise_creation_problem(row, user, request)
        execution_id = row["execution_id"]
        if warehouse is not None:
            await transaction.execute(
                self._queries["set_warehouse"], execution_id, request.warehouse_id
            )
            await transaction.execute(
                self._queries["set_binding_warehouse"], execution_id, source_id, warehouse
            )
        self._binding_cache.add(
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
        assert row is not None  # noqa: S101 (the statement returns one row)
        return row

    async def read(
        self, user: User, execution_id: int, workflow_id: int | None = None
    ) -> calls.Execution:
        """The row; with `workflow_id` only if it belongs to that workflow."""
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
        of_writers_only: bool = False,
    ) -> calls.ExecutionPage:
        """Newest first. One row more than `limit` is read, to know whether there is a next page.

        `of_writers_only`: only runs of users who may write to the workflow, and the caller's own.
        """
        rows = await self._database.read(
            self._queries["list_executions"],
            workflow_id,
            user.user_id,
            user.reads_everything,
            computing_unit_id,
            status_codes,
            before,
            limit + 1,
            of_writers_only,
        )
        if not rows:
            raise workflow_not_found(workflow_id)
        found = [execution_of(row) for row in rows if row["execution_id"] is not None]
        has_more = len(found) > limit
        found = found[:limit]
        return calls.ExecutionPage(found, found[-1].execution_id if has_more else None)

    async def latest(
        self, user: User, workflow_id: int, computing_unit_id: int | None
    ) -> calls.Execution:
        """The newest on the unit. Without a unit, anyone who may read the workflow could put a run
        of theirs in the place of its owner's, so that only those of its writers count."""
        page = await self.list(
            user,
            workflow_id,
            computing_unit_id=computing_unit_id,
            limit=1,
            of_writers_only=computing_unit_id is None,
        )
        if not page.executions:
            raise NoExecution(f"workflow {workflow_id} has no execution there")
        return page.executions[0]


def execution_of(row: asyncpg.Record) -> calls.Execution:
    """From a row that has the columns of `list_executions`, and possibly others."""
    columns = {name: row[name] for name in _COLUMNS}
    return calls.Execution(status=status_of_code(row["status_code"]), **columns)


def _raise_creation_problem(
    row: asyncpg.Record, user: User, request: calls.ExecutionRequest
) -> NoReturn:
    """Raises the first reason, in the order in which a caller may learn of them.

    Whether a workflow or unit exists is known to holders of a grant on it, and to ADMIN.
    """
    workflow, unit = request.workflow_id, request.computing_unit_id
    if not row["is_active"]:
        raise user_demoted()
    if not row["reads_workflow"]:
        if user.reads_everything and row["workflow_exists"]:
            raise WorkflowForbidden(f"running workflow {workflow} takes a grant on it")
        raise workflow_not_found(workflow)
    check_unit_writable(row, user, unit, "running")
    if row["unit_is_terminated"]:
        raise ComputingUnitTerminated(f"computing unit {unit} has been terminated")
    raise boot_superseded(str(request.boot_id))


class Versions:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("executions")

    async def latest(self, user: User, workflow_id: int) -> calls.Version:
        """Raises `WorkflowNotFound` or `NoVersion`."""
        rows = await self._database.read(
            self._queries["latest_version"], workflow_id, user.user_id, user.reads_everything
        )
        if not rows:
            raise workflow_not_found(workflow_id)
        version_id = rows[0]["version_id"]
        if version_id is None:
            raise NoVersion(f"workflow {workflow_id} has no version before its first run")
        return calls.Version(workflow_id, version_id)

    async def create_first(self, transaction: Transaction, workflow_id: int) -> None:
        """Makes the first version of a workflow that has none; once, also for concurrent calls."""
        await transaction.execute(self._queries["lock_versions"], workflow_id)
        await transaction.execute(self._queries["create_first_version"], workflow_id)
