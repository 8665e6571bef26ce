"""Operator costs: reported by the CU at completion, asked for by the next run's scheduler."""

from functools import partial

from sidecar import operations, wire
from sidecar.handlers.durable import durable
from sidecar.handlers.executions import PREFER, READ_PROBLEMS, WRITE_PROBLEMS
from sidecar.kit.routing import Answer, Call, NoParameters, Route
from sidecar.services import seen_answer, services
from sidecar.upstream.client import CallContext


async def put_operator_costs(
    call: Call[CallContext, wire.ExecutionPath, NoParameters, wire.OperatorCosts],
) -> Answer:
    return await durable(
        call, call.path.execution_id, lambda body: partial(operations.put_operator_costs, body)
    )


async def fetch_operator_costs(
    call: Call[CallContext, wire.WorkflowPath, NoParameters, None],
) -> Answer:
    sync_calls = services(call.request).sync_calls
    seen = await sync_calls.costs(call.path.workflow_id, call.caller)
    return seen_answer(call.request, seen.value.costs, seen)


ROUTES = (
    Route(
        method="PUT",
        path="/v1/executions/{execution_id}/operator-costs",
        handler=put_operator_costs,
        summary="Keep the seconds that each operator took",
        tag="costs",
        path_type=wire.ExecutionPath,
        body_type=wire.OperatorCosts,
        answers={202: wire.WriteAnswer, 200: wire.WriteAnswer},
        problems=WRITE_PROBLEMS,
        headers=PREFER,
    ),
    Route(
        method="GET",
        path="/v1/workflows/{workflow_id}/operator-costs",
        handler=fetch_operator_costs,
        summary="The seconds each operator took in the latest completed run",
        tag="costs",
        path_type=wire.WorkflowPath,
        answers={200: wire.LatestCosts},
        problems=READ_PROBLEMS,
    ),
)
