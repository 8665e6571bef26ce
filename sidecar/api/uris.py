"""The registry of URIs: results by port, console messages by operator."""

from functools import partial

from kit.http.routing import Header, Response
from sidecar import problems, write_operations
from sidecar.api.durable_writes import SPOOL_PROBLEMS, durable_write, submit_durable
from sidecar.api.services import (
    RunRequest,
    cached_response,
    preferred_wait_s,
    route_table,
    services,
)
from sidecar.wire import v1

_EXECUTION = "/v1/executions/{execution_id}"
_PORT = _EXECUTION + "/ports/{global_port_id}"
_CONSOLE = _EXECUTION + "/operators/{operator_id}/console"

routes = route_table("uris")


@routes.put(_PORT, **durable_write(problems.UriMismatch, problems.UriConflict))
async def put_port_result(
    request: RunRequest[v1.PortPath, None, v1.PortResult],
) -> Response[v1.WriteAnswer]:
    """Store a port's result URI, once; the same again is fine."""
    port = write_operations.validate_port(request.path.global_port_id)
    build = partial(write_operations.put_port_result, port)
    return await submit_durable(request, request.path.execution_id, build)


@routes.patch(_PORT, **durable_write())
async def set_port_result_size(
    request: RunRequest[v1.PortPath, None, v1.PortResultSize],
) -> Response[v1.WriteAnswer]:
    """Store the size of a port's result."""
    port = write_operations.validate_port(request.path.global_port_id)
    build = partial(write_operations.set_port_result_size, port)
    return await submit_durable(request, request.path.execution_id, build)


@routes.put(_CONSOLE, **durable_write(problems.UriMismatch, problems.UriConflict))
async def put_console(
    request: RunRequest[v1.OperatorPath, None, v1.Console],
) -> Response[v1.WriteAnswer]:
    """Store an operator's console URI, once; the same again is fine."""
    operator = write_operations.validate_operator(request.path.operator_id)
    build = partial(write_operations.put_console, operator)
    return await submit_durable(request, request.path.execution_id, build)


@routes.patch(_CONSOLE, **durable_write())
async def set_console_size(
    request: RunRequest[v1.OperatorPath, None, v1.ConsoleSize],
) -> Response[v1.WriteAnswer]:
    """Store the size of an operator's console messages."""
    operator = write_operations.validate_operator(request.path.operator_id)
    build = partial(write_operations.set_console_size, operator)
    return await submit_durable(request, request.path.execution_id, build)


@routes.get(_CONSOLE, problems=(problems.ConsoleNotFound, problems.TokenExpired))
async def fetch_console(
    request: RunRequest[v1.StoredOperatorPath, None, None],
) -> Response[v1.ConsoleUri]:
    """An operator's console URI."""
    path, reads = request.path, services(request).reads
    console, read = await reads.console(path.execution_id, path.operator_id, request.caller)
    return cached_response(request, console, read)


@routes.get(
    _EXECUTION + "/result-uri", problems=(problems.ResultUriNotFound, problems.TokenExpired)
)
async def fetch_result_uri(
    request: RunRequest[v1.ExecutionPath, v1.ResultUriQuery, None],
) -> Response[v1.ResultUri]:
    """The result URI of a logical output port."""
    execution_id, reads = request.path.execution_id, services(request).reads
    result, read = await reads.result_uri(execution_id, request.query, request.caller)
    return cached_response(request, result, read)


@routes.get(_EXECUTION + "/uris", problems=(problems.TokenExpired,))
async def fetch_uris(
    request: RunRequest[v1.ExecutionPath, None, None],
) -> Response[v1.Uris]:
    """All URIs of an execution, with sizes."""
    read = await services(request).reads.uris(request.path.execution_id, request.caller)
    return cached_response(request, read.value.to_json(), read)


@routes.delete(
    _EXECUTION + "/uris",
    problems=(*SPOOL_PROBLEMS, problems.DeliveryTimeout),
    headers={"Prefer": Header("wait=N: return 504 with the write's id after N seconds, not 30.")},
)
async def delete_uris(
    request: RunRequest[v1.ExecutionPath, None, None],
) -> Response[v1.Removed]:
    """Remove all result and console URIs; returns what was removed."""
    writes = services(request).writes
    binding, grant = await writes.authorize(request.path.execution_id, request.caller)
    entry = write_operations.delete_uris(binding, grant.user_id)
    return Response(await writes.submit_and_wait(entry, preferred_wait_s(request.http)))
