"""What is asked of a workflow as a whole: its version, one of its runs, an export's plan."""

from sidecar import problems, wire, wire_sync
from sidecar.handlers.executions import READ_PROBLEMS
from sidecar.kit.routing import Answer, Call, NoParameters, Route
from sidecar.services import seen_answer, services
from sidecar.upstream.client import CallContext


async def fetch_latest_version(
    call: Call[CallContext, wire.WorkflowPath, NoParameters, None],
) -> Answer:
    sync_calls = services(call.request).sync_calls
    return Answer(await sync_calls.latest_version(call.path.workflow_id, call.caller))


async def fetch_execution_of_workflow(
    call: Call[CallContext, wire_sync.WorkflowExecutionPath, NoParameters, None],
) -> Answer:
    path = call.path
    seen = await services(call.request).reads.execution(
        path.execution_id, call.caller, workflow_id=path.workflow_id
    )
    return seen_answer(call.request, seen.value.execution, seen)


async def plan_export(
    call: Call[CallContext, wire.WorkflowPath, NoParameters, wire_sync.ExportRequest],
) -> Answer:
    sync_calls = services(call.request).sync_calls
    return Answer(await sync_calls.plan_export(call.path.workflow_id, call.body, call.caller))


_WORKFLOW = "/v1/workflows/{workflow_id}"

ROUTES = (
    Route(
        method="GET",
        path=_WORKFLOW + "/versions/latest",
        handler=fetch_latest_version,
        summary="The workflow's latest version",
        tag="workflows",
        path_type=wire.WorkflowPath,
        answers={200: wire_sync.Version},
        problems=READ_PROBLEMS,
    ),
    Route(
        method="GET",
        path=_WORKFLOW + "/executions/{execution_id}",
        handler=fetch_execution_of_workflow,
        summary="An execution's row, if it is one of this workflow (replay, interactions)",
        tag="workflows",
        path_type=wire_sync.WorkflowExecutionPath,
        answers={200: wire.Execution},
        problems=READ_PROBLEMS,
    ),
    Route(
        method="POST",
        path=_WORKFLOW + "/export-plan",
        handler=plan_export,
        summary="All that an export has to look up, and what it may not have; changes nothing",
        tag="workflows",
        path_type=wire.WorkflowPath,
        body_type=wire_sync.ExportRequest,
        answers={200: wire_sync.ExportPlan},
        problems=(*READ_PROBLEMS, problems.NotDelivered),
    ),
)
