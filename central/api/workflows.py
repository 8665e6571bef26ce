"""Reads of a workflow as a whole: version, costs, one of its runs, an export's plan."""

from aiohttp import web

from central.api.executions import EXECUTIONS
from central.auth.authenticator import AuthenticatedRoute, Reader, RunReader
from central.domain import export_rules
from central.problems import (
    ComputingUnitNotFound,
    ExecutionNotFound,
    NoCompletedRun,
    NoVersion,
    WorkflowNotFound,
    WorkflowUnreadable,
)
from central.store.costs import Costs
from central.store.executions import Versions
from central.store.exports import Exports
from central.wire import calls
from kit.http.routing import Response, RouteTable, TypedRequest

COSTS: web.AppKey[Costs] = web.AppKey("costs", Costs)
EXPORTS: web.AppKey[Exports] = web.AppKey("exports", Exports)
VERSIONS: web.AppKey[Versions] = web.AppKey("versions", Versions)

_WORKFLOW = "/v1/workflows/{workflow_id}"

routes = RouteTable(AuthenticatedRoute, tag="workflows")


@routes.get(_WORKFLOW + "/versions/latest", problems=(WorkflowNotFound, NoVersion))
async def fetch_latest_version(
    request: TypedRequest[Reader, calls.WorkflowPath, None, None],
) -> Response[calls.Version]:
    """The workflow's latest version."""
    user, versions = request.caller.user, request.app[VERSIONS]
    return Response(await versions.latest(user, request.path.workflow_id))


@routes.get(_WORKFLOW + "/operator-costs", problems=(WorkflowNotFound, NoCompletedRun))
async def fetch_operator_costs(
    request: TypedRequest[Reader, calls.WorkflowPath, None, None],
) -> Response[calls.LatestCosts]:
    """The seconds each operator took in the latest completed run."""
    user, costs = request.caller.user, request.app[COSTS]
    return Response(await costs.latest(user, request.path.workflow_id))


@routes.get(_WORKFLOW + "/executions/{execution_id}", problems=(ExecutionNotFound,))
async def fetch_execution_of_workflow(
    request: TypedRequest[RunReader, calls.WorkflowExecutionPath, None, None],
) -> Response[calls.Execution]:
    """An execution's row, if it is one of this workflow."""
    user, executions, path = request.caller.user, request.app[EXECUTIONS], request.path
    return Response(await executions.read(user, path.execution_id, path.workflow_id))


@routes.post(
    _WORKFLOW + "/export-plan",
    problems=(WorkflowNotFound, ComputingUnitNotFound, WorkflowUnreadable),
)
async def plan_export(
    request: TypedRequest[Reader, calls.WorkflowPath, None, export_rules.ExportRequest],
) -> Response[export_rules.ExportPlan]:
    """All that an export has to look up; changes nothing."""
    user, exports = request.caller.user, request.app[EXPORTS]
    return Response(await exports.plan(user, request.path.workflow_id, request.body))
