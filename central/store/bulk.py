"""Bulk calls: the executions that a user has selected are deleted or bookmarked, all or none."""

import asyncpg

from central.domain.callers import User
from central.problems import ExecutionNotFound, NotTheExecutionsUser
from central.store.access import user_demoted, workflow_not_found
from central.store.database import Transaction
from central.store.queries import load
from central.wire import calls


class BulkExecutions:
    """One statement checks caller and ids and locks the executions, a second one does the work.

    A deletion returns the URIs that others have committed until the locks were granted.

    Raises `WorkflowNotFound`, `UserDemoted`, `ExecutionNotFound` for an id of another
    workflow, `NotTheExecutionsUser`.
    """

    def __init__(self) -> None:
        self._queries = load("bulk")

    async def delete(
        self, transaction: Transaction, user: User, selection: calls.Selection, source_id: str
    ) -> calls.DeletedExecutions:
        await self._lock(transaction, user, selection)
        rows = await transaction.fetch(
            self._queries["delete_executions"], selection.execution_ids, user.user_id, source_id
        )
        return calls.DeletedExecutions(
            [calls.DeletedExecution(row["execution_id"], row["uris"]) for row in rows]
        )

    async def bookmark(
        self, transaction: Transaction, user: User, selection: calls.BookmarkSelection
    ) -> calls.BookmarkedExecutions:
        await self._lock(transaction, user, selection)
        await transaction.execute(
            self._queries["bookmark_executions"], selection.execution_ids, selection.bookmarked
        )
        ids = sorted(set(selection.execution_ids))
        return calls.BookmarkedExecutions(ids, selection.bookmarked)

    async def _lock(self, transaction: Transaction, user: User, selection: calls.Selection) -> None:
        row = await transaction.fetch_row(
            self._queries["lock_selection"],
            user.user_id,
            user.reads_everything,
            selection.workflow_id,
            selection.execution_ids,
        )
        assert row is not None  # noqa: S101 (the statement returns one row)
        _check(row, selection)


def _check(row: asyncpg.Record, selection: calls.Selection) -> None:
    """Raises the first reason, in the order in which a caller may learn of them."""
    workflow = selection.workflow_id
    if not row["reads_workflow"]:
        raise workflow_not_found(workflow)
    if not row["is_active"]:
        raise user_demoted()
    if row["missing_id"] is not None:
        raise ExecutionNotFound(
            f"execution_ids: there is no execution {row['missing_id']} of workflow {workflow}"
        )
    if row["foreign_id"] is not None:
        raise NotTheExecutionsUser(
            f"execution_ids: execution {row['foreign_id']} is not yours, so none was changed"
        )
