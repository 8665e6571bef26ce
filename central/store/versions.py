"""Versions of workflows: every execution belongs to one."""

from central.auth.user_tokens import User
from central.problems import NoVersion, WorkflowNotFound
from central.store.database import Database, Transaction
from central.store.queries import load
from central.wire import calls


def workflow_not_found(workflow_id: int) -> WorkflowNotFound:
    """The same words whether it does not exist or the caller may not know that it does."""
    return WorkflowNotFound(f"there is no workflow {workflow_id} that you may read")


class Versions:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("versions")

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
        """Gives a workflow without versions its first, as Texera does; once, however many ask."""
        await transaction.execute(self._queries["lock_versions"], workflow_id)
        await transaction.execute(self._queries["create_first_version"], workflow_id)
