"""Bulk calls: the executions that a user has selected are deleted or bookmarked, all or none."""

import asyncpg

from central.auth.user_tokens import User
from central.problems import ExecutionNotFound, NotTheExecutionsUser
from central.store.access import user_demoted, workflow_not_found
from central.store.database import Transaction
from central.store.queries import load
from central.wire import calls


class BulkExecutions:
    """One statement checks the caller and every id, and does the work if all checks pass.

    A deletion locks the executions first: URIs that others commit until then are returned with it.

    Raises `WorkflowNotFound`, `UserDemoted`, `ExecutionNotFound` for an id of another
    workflow, `NotTheExecutionsUser`.
    """

    def __init__(self) -> None:
        self._queries = load("bulk")

    async def delete(
        self, transaction: Transaction, user: User, selection: calls.Selection
    ) -> calls.DeletedExecutions:
        await transaction.execute(
            self._queries["lock_selected"],
            user.user_id,
            selection.workflow_id,
            selection.execution_ids,
        )
        rows = await transaction.fetch(
            self._queries["delete_executions"], *_arguments(user, selection)
        )
        _check(rows[0], selection)
        deleted = [row for row in rows if row["execution_id"] is not None]
        return calls.DeletedExecutions(
            [calls.DeletedExecution(row["execution_id"], row["uris"]) for row in deleted]
        )

    async def bookmark(
        self, transaction: Transaction, user: User, selection: calls.BookmarkSelection
    ) -> calls.BookmarkedExecutions:
        rows = await transaction.fetch(
            self._queries["bookmark_executions"],
            *_arguments(user, selection),
            selection.bookmarked,
        )
        _check(rows[0], selection)
        ids = [row["execution_id"] for row in rows if row["execution_id"] is not None]
        return calls.BookmarkedExecutions(ids, selection.bookmarked)


def _arguments(user: User, selection: calls.Selection) -> tuple[int, bool, int, list[int]]:
    return user.user_id, user.reads_everything, selection.workflow_id, selection.execution_ids


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
