"""What is asked of a workflow as a whole: versions, costs, one of its runs, an export's plan."""

from typing import Any

from aiohttp import web

from central.api.executions import EXECUTIONS
from central.auth.authenticator import AuthenticatedRoute, CredentialPolicy, Reader
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
from central.store.exports import Exports
from central.store.versions import Versions
from central.wire import calls
from kit.http.routing import Answer, Call, NoParameters

COSTS: web.AppKey[Costs] = web.AppKey("costs", Costs)
EXPORTS: web.AppKey[Exports] = web.AppKey("exports", Exports)
VERSIONS: web.AppKey[Versions] = web.AppKey("versions", Versions)


async def fetch_latest_version(call: Call[Reader, calls.WorkflowPath, NoParameters, Any]) -> Answer:
    versions = call.request.app[VERSIONS]
    return Answer(await versions.latest(call.caller.user, call.path.workflow_id))


async def fetch_operator_costs(call: Call[Reader, calls.WorkflowPath, NoParameters, Any]) -> Answer:
    costs = call.request.app[COSTS]
    return Answer(await costs.latest(call.caller.user, call.path.workflow_id))


async def fetch_execution_of_workflow(
    call: Call[Reader, calls.WorkflowExecutionPath, NoParameters, Any],
) -> Answer:
    executions, path = call.request.app[EXECUTIONS], call.path
    return Answer(await executions.read(call.caller.user, path.execution_id, path.workflow_id))


async def plan_export(
    call: Call[Reader, calls.WorkflowPath, NoParameters, export_rules.ExportRequest],
) -> Answer:
    plans = call.request.app[EXPORTS]
    return Answer(await plans.plan(call.caller.user, call.path.workflow_id, call.body))


_WORKFLOW = "/v1/workflows/{workflow_id}"

ROUTES = (
    AuthenticatedRoute(
        method="GET",
        path=_WORKFLOW + "/versions/latest",
        handler=fetch_latest_version,
        summary="The workflow's latest version",
        tag="workflows",
        needs=CredentialPolicy.USER,
        path_type=calls.WorkflowPath,
        answers={200: calls.Version},
        problems=(WorkflowNotFound, NoVersion),
    ),
    AuthenticatedRoute(
        method="GET",
        path=_WORKFLOW + "/operator-costs",
        handler=fetch_operator_costs,
        summary="The seconds each operator took in the latest completed run",
        tag="workflows",
        needs=CredentialPolicy.USER,
        path_type=calls.WorkflowPath,
        answers={200: calls.LatestCosts},
        problems=(WorkflowNotFound, NoCompletedRun),
    ),
    AuthenticatedRoute(
        method="GET",
        path=_WORKFLOW + "/executions/{execution_id}",
        handler=fetch_execution_of_workflow,
        summary="An execution's row, if it is one of this workflow",
        tag="workflows",
        needs=CredentialPolicy.USER,
        path_type=calls.WorkflowExecutionPath,
        answers={200: calls.Execution},
        problems=(ExecutionNotFound,),
    ),
    AuthenticatedRoute(
        method="POST",
        path=_WORKFLOW + "/export-plan",
        handler=plan_export,
        summary="All that an export has to look up; changes nothing",
        tag="workflows",
        needs=CredentialPolicy.USER,
        path_type=calls.WorkflowPath,
        body_type=export_rules.ExportRequest,
        answers={200: export_rules.ExportPlan},
        problems=(WorkflowNotFound, ComputingUnitNotFound, WorkflowUnreadable),
    ),
)
