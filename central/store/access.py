"""Who may do what: the account's current role, and the problems that say no more than allowed.

A read judges its caller in the statement that does its work. Calls that change something by user's
token (bulk, boots, bindings, single-call writes) have a statement for it, in the transaction of
their work, which also locks or finds what the work needs. The columns that tell what the caller may
do (`is_active`, `unit_privilege`, `unit_exists`) are turned into problems here.
"""

import asyncpg

from central.domain.callers import User
from central.problems import (
    BootSuperseded,
    ComputingUnitForbidden,
    ComputingUnitNotFound,
    ExecutionNotFound,
    UserDemoted,
    WorkflowNotFound,
)
from central.store.database import Database
from central.store.queries import load


class Accounts:
    """Current roles: tokens live longer than a user's role may."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("access")

    async def role(self, user_id: int) -> str | None:
        """REGULAR or ADMIN; None for a deleted account or one of another role."""
        rows = await self._database.read(self._queries["account_role"], user_id)
        return rows[0]["role"] if rows else None


def execution_not_found(execution_id: int) -> ExecutionNotFound:
    """The same text whether the execution is absent or the caller may not know of it."""
    return ExecutionNotFound(f"there is no execution {execution_id} that you may read")


def workflow_not_found(workflow_id: int) -> WorkflowNotFound:
    """The same text whether the workflow is absent or the caller may not know of it."""
    return WorkflowNotFound(f"there is no workflow {workflow_id} that you may read")


def boot_superseded(boot_id: str) -> BootSuperseded:
    return BootSuperseded(f"the unit has had a newer boot than {boot_id}")


def user_demoted() -> UserDemoted:
    return UserDemoted("the token's user is no longer REGULAR or ADMIN")


def check_unit_seen(row: asyncpg.Record, user: User, unit_id: int) -> None:
    """Raises `ComputingUnitNotFound`: a unit is seen by holders of a grant and by ADMIN."""
    if row["unit_privilege"] is None and not (user.reads_everything and row["unit_exists"]):
        raise ComputingUnitNotFound(f"there is no computing unit {unit_id} that you may use")


def check_unit_writable(
    row: asyncpg.Record, user: User, unit_id: int, action: str = "acting"
) -> None:
    """Raises `ComputingUnitNotFound`, or `ComputingUnitForbidden` without a WRITE grant."""
    check_unit_seen(row, user, unit_id)
    if row["unit_privilege"] != "WRITE":
        raise ComputingUnitForbidden(
            f"{action} on computing unit {unit_id} takes a WRITE grant on it"
        )
