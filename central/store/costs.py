"""Operator costs of a completed execution. Written as an entry (`PutOperatorCosts`), read here."""

import msgspec

from central.domain.callers import User
from central.problems import NoCompletedRun
from central.store.access import workflow_not_found
from central.store.database import Database
from central.store.queries import load
from central.wire import calls

_operators = msgspec.json.Decoder(dict[str, float])


class Costs:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("costs")

    async def latest(self, user: User, workflow_id: int) -> calls.LatestCosts:
        """Raises `WorkflowNotFound` or `NoCompletedRun`."""
        rows = await self._database.read(
            self._queries["latest_costs"], workflow_id, user.user_id, user.reads_everything
        )
        if not rows:
            raise workflow_not_found(workflow_id)
        row = rows[0]
        if row["execution_id"] is None:
            raise NoCompletedRun(f"no run of workflow {workflow_id} has completed")
        operators = row["operators"]
        return calls.LatestCosts(
            row["execution_id"],
            row["runtime_stats_uri"] or None,
            _operators.decode(operators) if operators is not None else None,
        )
