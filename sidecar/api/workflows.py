"""What is asked of a workflow as a whole: its version, one of its runs, an export's plan."""

from kit.http.routing import Answer, Call, NoParameters, Route
from sidecar import problems
from sidecar.api.executions import READ_PROBLEMS
from sidecar.api.services import cached_response, services
from sidecar.upstream.client import CallContext
from sidecar.wire import forwarded, v1


async def fetch_latest_version(
    call: Call[CallContext, v1.WorkflowPath, NoParameters, None],
) -> Answer:
    forwarded = services(call.request).forwarded
    return Answer(await forwarded.latest_version(call.path.workflow_id, call.caller))


async def fetch_execution_of_workflow(
    call: Call[CallContext, forwarded.WorkflowExecutionPath, NoParameters, None],
) -> Answer:
    path = call.path
    seen = await services(call.request).reads.execution(
        path.execution_id, call.caller, workflow_id=path.workflow_id
    )
    return cached_response(call.request, seen.value.execution, seen)


async def plan_export(
    call: Call[CallContext, v1.WorkflowPath, NoParameters, forwarded.ExportRequest],
) -> Answer:
    forwarded = services(call.request).forwarded
    return Answer(await forwarded.plan_export(call.path.workflow_id, call.body, call.caller))


_WORKFLOW = "/v1/workflows/{workflow_id}"

ROUTES = (
    Route(
        method="GET",
        path=_WORKFLOW + "/versions/latest",
        handler=fetch_latest_version,
        summary="The workflow's latest version",
        tag="workflows",
        path_type=v1.WorkflowPath,
        answers={200: forwarded.Version},
        problems=READ_PROBLEMS,
    ),
    Route(
        method="GET",
        path=_WORKFLOW + "/executions/{execution_id}",
        handler=fetch_execution_of_workflow,
        summary="An execution's row, if it is one of this workflow (replay, interactions)",
        tag="workflows",
        path_type=forwarded.WorkflowExecutionPath,
        answers={200: v1.Execution},
        problems=READ_PROBLEMS,
    ),
    Route(
        method="POST",
        path=_WORKFLOW + "/export-plan",
        handler=plan_export,
        summary="All that an export has to look up, and what it may not have; changes nothing",
        tag="workflows",
        path_type=v1.WorkflowPath,
        body_type=forwarded.ExportRequest,
        answers={200: forwarded.ExportPlan},
        problems=(*READ_PROBLEMS, problems.DeliveryTimeout),
    ),
)
