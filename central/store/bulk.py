"""Executions that their user has selected: deleted or bookmarked together, all or none."""

from collections.abc import Sequence

import asyncpg

from central.auth.user_tokens import User
from central.problems import ExecutionNotFound, NotTheExecutionsUser, UserDemoted
from central.store.database import Transaction
from central.store.queries import load
from central.store.versions import workflow_not_found
from central.wire import calls
from kit.http.problems import Problem


class Selections:
    """One statement judges the caller and every id, and does the work if nothing is wrong.

    Raises `WorkflowNotFound`, `UserDemoted`, `ExecutionNotFound` for an id that is not the
    workflow's, `NotTheExecutionsUser`.
    """

    def __init__(self) -> None:
        self._queries = load("bulk")

    async def delete(
        self, transaction: Transaction, user: User, selection: calls.Selection
    ) -> calls.DeletedExecutions:
        rows = await transaction.fetch(
            self._queries["delete_executions"], *_arguments(user, selection)
        )
        _check(rows, selection)
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
        _check(rows, selection)
        ids = [row["execution_id"] for row in rows if row["execution_id"] is not None]
        return calls.BookmarkedExecutions(ids, selection.bookmarked)


def _arguments(user: User, selection: calls.Selection) -> tuple[int, bool, int, list[int]]:
    return user.user_id, user.reads_everything, selection.workflow_id, selection.execution_ids


def _check(rows: Sequence[asyncpg.Record], selection: calls.Selection) -> None:
    problem = _refusal(rows[0], selection)
    if problem is not None:
        raise problem


def _refusal(row: asyncpg.Record, selection: calls.Selection) -> Problem | None:
    """The first reason, in the order in which a caller may learn of them."""
    workflow = selection.workflow_id
    if not row["reads_workflow"]:
        return workflow_not_found(workflow)
    if not row["is_active"]:
        return UserDemoted("the token's user is no longer REGULAR or ADMIN")
    if row["missing_id"] is not None:
        return ExecutionNotFound(
            f"execution_ids: there is no execution {row['missing_id']} of workflow {workflow}"
        )
    if row["foreign_id"] is not None:
        return NotTheExecutionsUser(
            f"execution_ids: execution {row['foreign_id']} is not yours, so none was changed"
        )
    return None
