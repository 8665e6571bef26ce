"""The registry of URIs: results by port, console messages by operator."""

from functools import partial
from typing import Any, TypeAlias

from kit.http.routing import Answer, Call, Header, NoParameters, Route
from sidecar import problems, write_operations
from sidecar.api.durable import durable
from sidecar.api.executions import PREFER, READ_PROBLEMS, WRITE_PROBLEMS
from sidecar.api.services import cached_response, preferred_wait_s, services
from sidecar.upstream.client import CallContext
from sidecar.wire import v1

PortCall: TypeAlias = Call[CallContext, v1.PortPath, NoParameters, Any]
OperatorCall: TypeAlias = Call[CallContext, v1.OperatorPath, NoParameters, Any]


async def put_port_result(call: PortCall) -> Answer:
    port = write_operations.validate_port(call.path.global_port_id)
    return await durable(
        call,
        call.path.execution_id,
        lambda body: partial(write_operations.put_port_result, port, body),
    )


async def resize_port_result(call: PortCall) -> Answer:
    port = write_operations.validate_port(call.path.global_port_id)
    return await durable(
        call,
        call.path.execution_id,
        lambda body: partial(write_operations.set_port_result_bytes, port, body.result_bytes),
    )


async def put_console(call: OperatorCall) -> Answer:
    operator = write_operations.validate_operator(call.path.operator_id)
    return await durable(
        call,
        call.path.execution_id,
        lambda body: partial(write_operations.put_console, operator, body),
    )


async def resize_console(call: OperatorCall) -> Answer:
    operator = write_operations.validate_operator(call.path.operator_id)
    return await durable(
        call,
        call.path.execution_id,
        lambda body: partial(write_operations.set_console_bytes, operator, body.bytes),
    )


async def fetch_console(
    call: Call[CallContext, v1.StoredOperatorPath, NoParameters, None],
) -> Answer:
    console, seen = await services(call.request).reads.console(
        call.path.execution_id, call.path.operator_id, call.caller
    )
    return cached_response(call.request, console, seen)


async def fetch_result_uri(
    call: Call[CallContext, v1.ExecutionPath, v1.ResultUriQuery, None],
) -> Answer:
    result, seen = await services(call.request).reads.result_uri(
        call.path.execution_id, call.query, call.caller
    )
    return cached_response(call.request, result, seen)


async def fetch_uris(
    call: Call[CallContext, v1.ExecutionPath, NoParameters, None],
) -> Answer:
    seen = await services(call.request).reads.uris(call.path.execution_id, call.caller)
    return cached_response(call.request, seen.value.to_json(), seen)


async def delete_uris(
    call: Call[CallContext, v1.ExecutionPath, NoParameters, None],
) -> Answer:
    writes = services(call.request).writes
    binding, grant = await writes.authorize(call.path.execution_id, call.caller)
    entry = write_operations.delete_uris(binding, grant.user_id)
    return Answer(await writes.submit_and_wait(entry, preferred_wait_s(call.request)))


_PORT = "/v1/executions/{execution_id}/ports/{global_port_id}"
_CONSOLE = "/v1/executions/{execution_id}/operators/{operator_id}/console"
_DURABLE = {202: v1.WriteAnswer, 200: v1.WriteAnswer}

ROUTES = (
    Route(
        method="PUT",
        path=_PORT,
        handler=put_port_result,
        summary="ResourceCache a port's result URI, once; the same again is fine",
        tag="uris",
        path_type=v1.PortPath,
        body_type=v1.PortResult,
        answers=_DURABLE,
        problems=(*WRITE_PROBLEMS, problems.UriMismatch, problems.UriConflict),
        headers=PREFER,
    ),
    Route(
        method="PATCH",
        path=_PORT,
        handler=resize_port_result,
        summary="ResourceCache the size of a port's result",
        tag="uris",
        path_type=v1.PortPath,
        body_type=v1.PortResultSize,
        answers=_DURABLE,
        problems=WRITE_PROBLEMS,
        headers=PREFER,
    ),
    Route(
        method="PUT",
        path=_CONSOLE,
        handler=put_console,
        summary="ResourceCache an operator's console URI, once; the same again is fine",
        tag="uris",
        path_type=v1.OperatorPath,
        body_type=v1.Console,
        answers=_DURABLE,
        problems=(*WRITE_PROBLEMS, problems.UriMismatch, problems.UriConflict),
        headers=PREFER,
    ),
    Route(
        method="PATCH",
        path=_CONSOLE,
        handler=resize_console,
        summary="ResourceCache the size of an operator's console messages",
        tag="uris",
        path_type=v1.OperatorPath,
        body_type=v1.ConsoleSize,
        answers=_DURABLE,
        problems=WRITE_PROBLEMS,
        headers=PREFER,
    ),
    Route(
        method="GET",
        path=_CONSOLE,
        handler=fetch_console,
        summary="An operator's console URI",
        tag="uris",
        path_type=v1.StoredOperatorPath,
        answers={200: v1.ConsoleUri},
        problems=(*READ_PROBLEMS, problems.ConsoleNotFound, problems.TokenExpired),
    ),
    Route(
        method="GET",
        path="/v1/executions/{execution_id}/result-uri",
        handler=fetch_result_uri,
        summary="The result URI of a logical output port",
        tag="uris",
        path_type=v1.ExecutionPath,
        query_type=v1.ResultUriQuery,
        answers={200: v1.ResultUri},
        problems=(*READ_PROBLEMS, problems.ResultUriNotFound, problems.TokenExpired),
    ),
    Route(
        method="GET",
        path="/v1/executions/{execution_id}/uris",
        handler=fetch_uris,
        summary="All URIs of an execution, with sizes",
        tag="uris",
        path_type=v1.ExecutionPath,
        answers={200: v1.Uris},
        problems=(*READ_PROBLEMS, problems.TokenExpired),
    ),
    Route(
        method="DELETE",
        path="/v1/executions/{execution_id}/uris",
        handler=delete_uris,
        summary="Forget all result and console URIs; answers what was removed",
        tag="uris",
        path_type=v1.ExecutionPath,
        answers={200: v1.Removed},
        problems=(*WRITE_PROBLEMS, problems.DeliveryTimeout),
        headers={
            "Prefer": Header("wait=N: answer 504 with the write's id after N seconds, not 30.")
        },
    ),
)
