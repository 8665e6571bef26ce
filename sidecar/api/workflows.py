"""Reads of a workflow as a whole: its version, one of its runs, an export's plan."""

from kit.http.routing import Response
from sidecar import problems
from sidecar.api.services import Request, RunRequest, cached_response, route_table, services
from sidecar.wire import forwarded, v1

_WORKFLOW = "/v1/workflows/{workflow_id}"

routes = route_table("workflows")


@routes.get(_WORKFLOW + "/versions/latest")
async def fetch_latest_version(
    request: Request[v1.WorkflowPath, None, None],
) -> Response[forwarded.Version]:
    """The workflow's latest version."""
    calls = services(request).forwarded
    return Response(await calls.latest_version(request.path.workflow_id, request.caller))


@routes.get(_WORKFLOW + "/executions/{execution_id}")
async def fetch_execution_of_workflow(
    request: RunRequest[forwarded.WorkflowExecutionPath, None, None],
) -> Response[v1.Execution]:
    """An execution's row, if it is one of this workflow (replay, interactions)."""
    path, reads = request.path, services(request).reads
    read = await reads.execution(path.execution_id, request.caller, workflow_id=path.workflow_id)
    return cached_response(request, read.value.execution, read)


@routes.post(_WORKFLOW + "/export-plan", problems=(problems.DeliveryTimeout,))
async def plan_export(
    request: Request[v1.WorkflowPath, None, forwarded.ExportRequest],
) -> Response[forwarded.ExportPlan]:
    """All that an export has to look up, and what it may not have; changes nothing."""
    calls, workflow_id = services(request).forwarded, request.path.workflow_id
    return Response(await calls.plan_export(workflow_id, request.body, request.caller))
