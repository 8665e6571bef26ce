"""Export plans: the look-ups for `central.domain.export_rules`."""

import msgspec

from central.domain import export_rules
from central.domain.callers import User
from central.problems import ComputingUnitNotFound, WorkflowUnreadable
from central.store.access import workflow_not_found
from central.store.database import Database
from central.store.queries import load
from kit.http.large_decoder import LargeDecoder
from kit.texera.uris import resolve_output_port

MAX_CONTENT_BYTES = 4 * 1024 * 1024
"""Of a workflow, many times more than an ordinary one. Decoded it may take twenty times as much
memory."""

_results = msgspec.json.Decoder(dict[str, str])


class Exports:
    def __init__(self, database: Database, large_decoder: LargeDecoder) -> None:
        self._database = database
        self._large_decoder = large_decoder
        self._queries = load("exports")

    async def plan(
        self, user: User, workflow_id: int, request: export_rules.ExportRequest
    ) -> export_rules.ExportPlan:
        """Raises `WorkflowNotFound`, `ComputingUnitNotFound` or `WorkflowUnreadable`."""
        rows = await self._database.read(
            self._queries["export_facts"],
            workflow_id,
            request.computing_unit_id,
            user.user_id,
            user.reads_everything,
            MAX_CONTENT_BYTES,
        )
        if not rows:
            raise workflow_not_found(workflow_id)
        facts = rows[0]
        if not facts["sees_unit"]:
            raise ComputingUnitNotFound(
                f"there is no computing unit {request.computing_unit_id} that you may use"
            )
        if (facts["content_bytes"] or 0) > MAX_CONTENT_BYTES:
            raise WorkflowUnreadable(
                f"the content of workflow {workflow_id} has {facts['content_bytes']} bytes,"
                f" expected at most {MAX_CONTENT_BYTES}"
            )
        blocked = await self._blocked(user, workflow_id, facts["content"])
        results = _results.decode(facts["results"])

        def plan_operator(operator: export_rules.ExportedOperator) -> export_rules.PlannedOperator:
            blocked_by = blocked.get(operator.id, [])
            port = resolve_output_port(results, operator.id, operator.port_id, False)
            name = request.file_name or export_rules.export_file_name(
                facts["name"], operator, facts["version_id"], facts["utc_now"]
            )
            uri = results[port] if port is not None and not blocked_by else None
            return export_rules.PlannedOperator(
                operator.id, uri, name, bool(blocked_by), blocked_by
            )

        return export_rules.ExportPlan(
            facts["execution_id"],
            facts["version_id"],
            [plan_operator(o) for o in request.operators],
        )

    async def _blocked(
        self, user: User, workflow_id: int, content: str | None
    ) -> dict[str, list[str]]:
        # An unreadable workflow may read any dataset, so that nothing of it is exported.
        try:
            datasets, links = await self._large_decoder.decode(_read_content, content)
        except (msgspec.DecodeError, RecursionError) as error:
            raise WorkflowUnreadable(
                f"the content of workflow {workflow_id} is not JSON: {error}"
            ) from error
        if not datasets:
            return {}
        names = sorted(set(datasets.values()))
        rows = await self._database.read(
            self._queries["restricted_datasets"],
            user.user_id,
            [dataset.owner_email for dataset in names],
            [dataset.name for dataset in names],
        )
        restricted = {
            names[row["position"] - 1]: export_rules.DatasetName(row["owner_email"], row["name"])
            for row in rows
        }
        return export_rules.blocked_operators(links, datasets, restricted)


def _read_content(
    content: str | None,
) -> tuple[dict[str, export_rules.DatasetName], export_rules.Links]:
    """What the rules need of a workflow; its decoded content is not kept."""
    workflow = export_rules.parse_workflow(content)
    return export_rules.datasets_by_operator(workflow), export_rules.links_of(workflow)
