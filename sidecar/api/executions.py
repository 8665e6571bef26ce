"""Executions: create, read, change, list."""

from kit.http.routing import Response
from kit.http.validation import idempotency_key
from sidecar import problems, write_operations
from sidecar.api.durable_writes import durable_write, submit_durable
from sidecar.api.services import (
    IDEMPOTENCY_HEADER,
    NO_STORE,
    Request,
    RunRequest,
    cached_response,
    route_table,
    services,
)
from sidecar.wire import v1

_EXECUTION = "/v1/executions/{execution_id}"
_OF_WORKFLOW = "/v1/workflows/{workflow_id}/executions"

routes = route_table("executions")


@routes.post("/v1/executions", statuses=(201,), headers=IDEMPOTENCY_HEADER)
async def create_execution(
    request: Request[None, None, v1.NewExecutionRequest],
) -> Response[v1.NewExecution]:
    """Create an execution; its user is the token's, its status READY."""
    key, create = idempotency_key(request.http.headers), services(request).writes.create
    created = await create(request.body, key, request.caller)
    return Response(created, 201, {} if created.run_token is None else NO_STORE)


@routes.get(_EXECUTION)
async def fetch_execution(
    request: RunRequest[v1.ExecutionPath, None, None],
) -> Response[v1.Execution]:
    """An execution's row, with waiting writes applied."""
    read = await services(request).reads.execution(request.path.execution_id, request.caller)
    return cached_response(request, read.value.execution, read)


@routes.patch(_EXECUTION, **durable_write(problems.UriMismatch))
async def change_execution(
    request: RunRequest[v1.ExecutionPath, None, v1.ExecutionChanges],
) -> Response[v1.WriteAnswer]:
    """Change status or other fields; one write, applied or refused as a whole."""
    return await submit_durable(
        request,
        request.path.execution_id,
        write_operations.update_execution,
        validate=write_operations.patch_fields,
    )


@routes.get(_OF_WORKFLOW + "/latest", tag="workflows")
async def fetch_latest_execution(
    request: Request[v1.WorkflowPath, v1.LatestQuery, None],
) -> Response[v1.Execution]:
    """The workflow's newest execution, on one computing unit or on any."""
    workflow_id, unit_id = request.path.workflow_id, request.query.computing_unit_id
    read = await services(request).reads.latest(workflow_id, unit_id, request.caller)
    return cached_response(request, read.value.execution, read)


@routes.get(_OF_WORKFLOW, tag="workflows")
async def list_executions(
    request: Request[v1.WorkflowPath, v1.ListQuery, None],
) -> Response[v1.ExecutionPage]:
    """The workflow's executions, newest first."""
    query, forwarded = request.query, services(request).forwarded
    for name in (query.status or "").split(",") if query.status is not None else ():
        write_operations.parse_status_field(_name_or_code(name.strip()))
    return Response(await forwarded.list_page(request.path.workflow_id, query, request.caller))


def _name_or_code(text: str) -> str | int:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 9 else text
