"""Operator costs: reported by the CU at completion, asked for by the next run's scheduler."""

from functools import partial

from kit.http.routing import Answer, Call, NoParameters, Route
from sidecar import write_operations
from sidecar.api.durable import durable
from sidecar.api.executions import PREFER, READ_PROBLEMS, WRITE_PROBLEMS
from sidecar.api.services import cached_response, services
from sidecar.upstream.client import CallContext
from sidecar.wire import v1


async def put_operator_costs(
    call: Call[CallContext, v1.ExecutionPath, NoParameters, v1.OperatorCosts],
) -> Answer:
    return await durable(
        call,
        call.path.execution_id,
        lambda body: partial(write_operations.put_operator_costs, body),
    )


async def fetch_operator_costs(
    call: Call[CallContext, v1.WorkflowPath, NoParameters, None],
) -> Answer:
    forwarded = services(call.request).forwarded
    seen = await forwarded.costs(call.path.workflow_id, call.caller)
    return cached_response(call.request, seen.value.costs, seen)


ROUTES = (
    Route(
        method="PUT",
        path="/v1/executions/{execution_id}/operator-costs",
        handler=put_operator_costs,
        summary="Keep the seconds that each operator took",
        tag="costs",
        path_type=v1.ExecutionPath,
        body_type=v1.OperatorCosts,
        answers={202: v1.WriteAnswer, 200: v1.WriteAnswer},
        problems=WRITE_PROBLEMS,
        headers=PREFER,
    ),
    Route(
        method="GET",
        path="/v1/workflows/{workflow_id}/operator-costs",
        handler=fetch_operator_costs,
        summary="The seconds each operator took in the latest completed run",
        tag="costs",
        path_type=v1.WorkflowPath,
        answers={200: v1.LatestCosts},
        problems=READ_PROBLEMS,
    ),
)
