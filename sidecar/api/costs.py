"""Operator costs: reported by the CU at completion, read by the next run's scheduler."""

from kit.http.routing import Response
from sidecar import write_operations
from sidecar.api.durable_writes import durable_write, submit_durable
from sidecar.api.services import Request, RunRequest, cached_response, route_table, services
from sidecar.wire import v1

routes = route_table("costs")


@routes.put("/v1/executions/{execution_id}/operator-costs", **durable_write())
async def put_operator_costs(
    request: RunRequest[v1.ExecutionPath, None, v1.OperatorCosts],
) -> Response[v1.WriteAnswer]:
    """Keep the seconds that each operator took."""
    execution_id = request.path.execution_id
    return await submit_durable(request, execution_id, write_operations.put_operator_costs)


@routes.get("/v1/workflows/{workflow_id}/operator-costs")
async def fetch_operator_costs(
    request: Request[v1.WorkflowPath, None, None],
) -> Response[v1.LatestCosts]:
    """The seconds each operator took in the latest completed run."""
    read = await services(request).forwarded.costs(request.path.workflow_id, request.caller)
    return cached_response(request, read.value.costs, read)
