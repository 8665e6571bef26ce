"""The plan of an export: its look-ups, and what `central.exports` makes of them."""

from typing import Any

import msgspec

from central import exports
from central.auth.tokens import User
from central.kit.vfs import terminal_port
from central.problems import ComputingUnitNotFound, WorkflowUnreadable
from central.store.database import Database
from central.store.queries import load
from central.store.versions import workflow_not_found

_results = msgspec.json.Decoder(dict[str, str])


class Exports:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("exports")

    async def plan(
        self, user: User, workflow_id: int, request: exports.ExportRequest
    ) -> exports.ExportPlan:
        """Raises `WorkflowNotFound`, `ComputingUnitNotFound` or `WorkflowUnreadable`."""
        rows = await self._database.read(
            self._queries["export_facts"],
            workflow_id,
            request.computing_unit_id,
            user.user_id,
            user.reads_everything,
        )
        if not rows:
            raise workflow_not_found(workflow_id)
        facts = rows[0]
        if not facts["sees_unit"]:
            raise ComputingUnitNotFound(
                f"there is no computing unit {request.computing_unit_id} that you may use"
            )
        blocked = await self._blocked(user, workflow_id, facts["content"])
        results = _results.decode(facts["results"])

        def planned(operator: exports.ExportedOperator) -> exports.PlannedOperator:
            blocked_by = blocked.get(operator.id, [])
            port = terminal_port(results, operator.id, operator.port_id, False)
            name = request.file_name or exports.file_name_of(
                facts["name"], operator, facts["version_id"], facts["utc_now"]
            )
            uri = results[port] if port is not None and not blocked_by else None
            return exports.PlannedOperator(operator.id, uri, name, bool(blocked_by), blocked_by)

        return exports.ExportPlan(
            facts["execution_id"], facts["version_id"], [planned(o) for o in request.operators]
        )

    async def _blocked(self, user: User, workflow_id: int, content: str) -> dict[str, list[str]]:
        # What cannot be read might read anything, so nothing of it leaves.
        try:
            workflow: Any = msgspec.json.decode(content) if content else None
        except (msgspec.DecodeError, RecursionError) as error:
            raise WorkflowUnreadable(
                f"the content of workflow {workflow_id} is not JSON: {error}"
            ) from error
        read = exports.datasets_read(workflow)
        if not read:
            return {}
        asked = sorted(set(read.values()))
        rows = await self._database.read(
            self._queries["restricted_datasets"],
            user.user_id,
            [dataset.owner_email for dataset in asked],
            [dataset.name for dataset in asked],
        )
        restricted = {
            asked[row["place"] - 1]: exports.DatasetName(row["owner_email"], row["name"])
            for row in rows
        }
        return exports.blocked_operators(workflow, read, restricted)
