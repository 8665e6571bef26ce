"""The drop-in routes: the calls of Texera's own proposal, over the writes and reads of `/v1`.

The client is `java.net.HttpURLConnection` without retries or idempotency keys. It treats any
2xx as done and 404 as absent, so a durable write returns 202 with the write's id, which it
ignores. The execution must belong to the token's user.
"""

from kit.http.routing import Response, RouteOptions
from kit.http.validation import idempotency_key
from sidecar import problems, write_operations
from sidecar.api.durable_writes import SPOOL_PROBLEMS, submit_durable
from sidecar.api.services import (
    IDEMPOTENCY_HEADER,
    NO_STORE,
    Request,
    RunRequest,
    cached_response,
    route_table,
    services,
)
from sidecar.spool.bindings import Binding
from sidecar.spool.entry import NewEntry
from sidecar.wire import drop_in, v1

_BASE = "/api/internal/execution-metadata"
_EXECUTION = _BASE + "/{eid}"
_WRITE: RouteOptions = {"statuses": (202,), "problems": SPOOL_PROBLEMS}
_URI_WRITE: RouteOptions = {
    "statuses": (202,),
    "problems": (*SPOOL_PROBLEMS, problems.UriMismatch),
}

routes = route_table("drop-in")


@routes.post(_BASE + "/create", problems=(problems.UidMismatch,), headers=IDEMPOTENCY_HEADER)
async def drop_in_create(
    request: Request[None, None, drop_in.DropInCreate],
) -> Response[drop_in.DropInCreated]:
    """Create an execution of the token's user."""
    writes, body = services(request).writes, request.body
    if body.uid is not None:
        user_id = await writes.user_of(request.caller)
        if body.uid != user_id:
            raise problems.UidMismatch(f"uid: the token's user is {user_id}, not {body.uid}")
    new = v1.NewExecutionRequest(
        body.workflow_id,
        body.computing_unit_id,
        body.environment_version,
        body.execution_name,
        run_token=body.run_token,
    )
    created = await writes.create(new, idempotency_key(request.http.headers), request.caller)
    result = drop_in.DropInCreated(created.execution_id, created.run_token)
    return Response(result, headers={} if created.run_token is None else NO_STORE)


@routes.get(_BASE + "/latest")
async def drop_in_fetch_latest(
    request: Request[None, drop_in.LatestQuery, None],
) -> Response[drop_in.DropInCreated]:
    """The newest execution of a workflow on a computing unit."""
    query, reads = request.query, services(request).reads
    read = await reads.latest(query.wid, query.cuid, request.caller)
    return cached_response(request, drop_in.DropInCreated(read.value.execution.execution_id), read)


@routes.put(
    _EXECUTION + "/runtime-stats-uri",
    statuses=(202,),
    problems=(*SPOOL_PROBLEMS, problems.ExecutionNotFound, problems.UriMismatch),
)
async def drop_in_put_runtime_stats_uri(
    request: RunRequest[drop_in.EidPath, None, drop_in.DropInRuntimeStatsUri],
) -> Response[drop_in.DropInDurable]:
    """Store where the runtime statistics are."""

    def build(body: drop_in.DropInRuntimeStatsUri, binding: Binding, user_id: int) -> NewEntry:
        if binding.workflow_id != body.workflow_id:
            raise problems.ExecutionNotFound(
                f"workflowId: execution {binding.execution_id} is not one of workflow"
                f" {body.workflow_id}"
            )
        fields = {"runtime_stats_uri": body.uri}
        return write_operations.update_execution(fields, binding, user_id)

    return await submit_durable(request, request.path.eid, build, render=_durable)


@routes.put(_EXECUTION + "/status", **_WRITE)
async def drop_in_put_status(
    request: RunRequest[drop_in.EidPath, None, drop_in.DropInStatusChange],
) -> Response[drop_in.DropInDurable]:
    """Change the status, by name or by Texera's code."""
    return await submit_durable(
        request,
        request.path.eid,
        write_operations.update_execution,
        validate=lambda body: {"status": write_operations.parse_status_field(body.status).value},
        render=_durable,
    )


@routes.post(_EXECUTION + "/operator-console", **_URI_WRITE)
async def drop_in_post_operator_console(
    request: RunRequest[drop_in.EidPath, None, drop_in.DropInOperatorConsole],
) -> Response[drop_in.DropInDurable]:
    """Store where an operator's console messages are; the same again is fine."""

    def validate(body: drop_in.DropInOperatorConsole) -> drop_in.DropInOperatorConsole:
        write_operations.validate_operator(body.operator_id, "operatorId")
        return body

    def build(body: drop_in.DropInOperatorConsole, binding: Binding, user_id: int) -> NewEntry:
        console = v1.Console(body.uri)
        return write_operations.put_console(body.operator_id, console, binding, user_id)

    return await submit_durable(
        request, request.path.eid, build, validate=validate, render=_durable
    )


@routes.post(_EXECUTION + "/port-result", **_URI_WRITE)
async def drop_in_post_port_result(
    request: RunRequest[drop_in.EidPath, None, drop_in.DropInPortResult],
) -> Response[drop_in.DropInDurable]:
    """Store where a port's result is; the same again is fine."""

    def validate(body: drop_in.DropInPortResult) -> drop_in.DropInPortResult:
        write_operations.validate_port(body.global_port_id, "globalPortId")
        return body

    def build(body: drop_in.DropInPortResult, binding: Binding, user_id: int) -> NewEntry:
        result = v1.PortResult(body.uri)
        return write_operations.put_port_result(body.global_port_id, result, binding, user_id)

    return await submit_durable(
        request, request.path.eid, build, validate=validate, render=_durable
    )


@routes.get(_EXECUTION + "/port-result", problems=(problems.ResultUriNotFound,))
async def drop_in_fetch_port_result(
    request: RunRequest[drop_in.EidPath, drop_in.PortResultQuery, None],
) -> Response[drop_in.DropInUri]:
    """The result URI of a logical output port."""
    eid, reads = request.path.eid, services(request).reads
    query = v1.ResultUriQuery(request.query.op_id, request.query.port_id, request.query.internal)
    found, read = await reads.result_uri(eid, query, request.caller)
    return cached_response(request, drop_in.DropInUri(found.uri), read)


@routes.get(_EXECUTION + "/port-results")
async def drop_in_fetch_port_results(
    request: RunRequest[drop_in.EidPath, None, None],
) -> Response[drop_in.DropInUriList]:
    """All result URIs of an execution."""
    read = await services(request).reads.uris(request.path.eid, request.caller)
    uris = [uri for _, (uri, _) in sorted(read.value.results.items())]
    return cached_response(request, drop_in.DropInUriList(uris), read)


def _durable(write: v1.WriteAnswer) -> drop_in.DropInDurable:
    return drop_in.DropInDurable(write.write_id, write.state)
