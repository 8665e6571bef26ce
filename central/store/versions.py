"""Versions of workflows: every execution belongs to one."""

from central.store.database import Transaction
from central.store.queries import load


class Versions:
    def __init__(self) -> None:
        self._queries = load("versions")

    async def create_first(self, transaction: Transaction, workflow_id: int) -> None:
        """Gives a workflow without versions its first, as Texera does; once, however many ask."""
        await transaction.execute(self._queries["lock_versions"], workflow_id)
        await transaction.execute(self._queries["create_first_version"], workflow_id)
