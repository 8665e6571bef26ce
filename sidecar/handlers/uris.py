"""The registry of URIs: results by port, console messages by operator."""

from functools import partial
from typing import Any, TypeAlias

from sidecar import operations, problems, wire
from sidecar.handlers.durable import durable
from sidecar.handlers.executions import PREFER, READ_PROBLEMS, WRITE_PROBLEMS
from sidecar.kit.routing import Answer, Call, Header, NoParameters, Route
from sidecar.services import preferred_wait_s, seen_answer, services
from sidecar.upstream.client import CallContext

PortCall: TypeAlias = Call[CallContext, wire.PortPath, NoParameters, Any]
OperatorCall: TypeAlias = Call[CallContext, wire.OperatorPath, NoParameters, Any]


async def put_port_result(call: PortCall) -> Answer:
    port = operations.checked_port(call.path.global_port_id)
    return await durable(
        call,
        call.path.execution_id,
        lambda body: partial(operations.put_port_result, port, body),
    )


async def resize_port_result(call: PortCall) -> Answer:
    port = operations.checked_port(call.path.global_port_id)
    return await durable(
        call,
        call.path.execution_id,
        lambda body: partial(operations.set_port_result_bytes, port, body.result_bytes),
    )


async def put_console(call: OperatorCall) -> Answer:
    operator = operations.checked_operator(call.path.operator_id)
    return await durable(
        call,
        call.path.execution_id,
        lambda body: partial(operations.put_console, operator, body),
    )


async def resize_console(call: OperatorCall) -> Answer:
    operator = operations.checked_operator(call.path.operator_id)
    return await durable(
        call,
        call.path.execution_id,
        lambda body: partial(operations.set_console_bytes, operator, body.bytes),
    )


async def fetch_console(
    call: Call[CallContext, wire.StoredOperatorPath, NoParameters, None],
) -> Answer:
    console, seen = await services(call.request).reads.console(
        call.path.execution_id, call.path.operator_id, call.caller
    )
    return seen_answer(call.request, console, seen)


async def fetch_result_uri(
    call: Call[CallContext, wire.ExecutionPath, wire.ResultUriQuery, None],
) -> Answer:
    result, seen = await services(call.request).reads.result_uri(
        call.path.execution_id, call.query, call.caller
    )
    return seen_answer(call.request, result, seen)


async def fetch_uris(
    call: Call[CallContext, wire.ExecutionPath, NoParameters, None],
) -> Answer:
    seen = await services(call.request).reads.uris(call.path.execution_id, call.caller)
    return seen_answer(call.request, seen.value.answer(), seen)


async def delete_uris(
    call: Call[CallContext, wire.ExecutionPath, NoParameters, None],
) -> Answer:
    writes = services(call.request).writes
    binding, grant = await writes.admit(call.path.execution_id, call.caller)
    entry = operations.delete_uris(binding, grant.user_id)
    return Answer(await writes.submit_and_wait(entry, preferred_wait_s(call.request)))


_PORT = "/v1/executions/{execution_id}/ports/{global_port_id}"
_CONSOLE = "/v1/executions/{execution_id}/operators/{operator_id}/console"
_DURABLE = {202: wire.WriteAnswer, 200: wire.WriteAnswer}

ROUTES = (
    Route(
        method="PUT",
        path=_PORT,
        handler=put_port_result,
        summary="Store a port's result URI, once; the same again is fine",
        tag="uris",
        path_type=wire.PortPath,
        body_type=wire.PortResult,
        answers=_DURABLE,
        problems=(*WRITE_PROBLEMS, problems.UriMismatch, problems.UriConflict),
        headers=PREFER,
    ),
    Route(
        method="PATCH",
        path=_PORT,
        handler=resize_port_result,
        summary="Store the size of a port's result",
        tag="uris",
        path_type=wire.PortPath,
        body_type=wire.PortResultSize,
        answers=_DURABLE,
        problems=WRITE_PROBLEMS,
        headers=PREFER,
    ),
    Route(
        method="PUT",
        path=_CONSOLE,
        handler=put_console,
        summary="Store an operator's console URI, once; the same again is fine",
        tag="uris",
        path_type=wire.OperatorPath,
        body_type=wire.Console,
        answers=_DURABLE,
        problems=(*WRITE_PROBLEMS, problems.UriMismatch, problems.UriConflict),
        headers=PREFER,
    ),
    Route(
        method="PATCH",
        path=_CONSOLE,
        handler=resize_console,
        summary="Store the size of an operator's console messages",
        tag="uris",
        path_type=wire.OperatorPath,
        body_type=wire.ConsoleSize,
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
        path_type=wire.StoredOperatorPath,
        answers={200: wire.ConsoleUri},
        problems=(*READ_PROBLEMS, problems.ConsoleNotFound, problems.TokenExpired),
    ),
    Route(
        method="GET",
        path="/v1/executions/{execution_id}/result-uri",
        handler=fetch_result_uri,
        summary="The result URI of a logical output port",
        tag="uris",
        path_type=wire.ExecutionPath,
        query_type=wire.ResultUriQuery,
        answers={200: wire.ResultUri},
        problems=(*READ_PROBLEMS, problems.ResultUriNotFound, problems.TokenExpired),
    ),
    Route(
        method="GET",
        path="/v1/executions/{execution_id}/uris",
        handler=fetch_uris,
        summary="All URIs of an execution, with sizes",
        tag="uris",
        path_type=wire.ExecutionPath,
        answers={200: wire.Uris},
        problems=(*READ_PROBLEMS, problems.TokenExpired),
    ),
    Route(
        method="DELETE",
        path="/v1/executions/{execution_id}/uris",
        handler=delete_uris,
        summary="Forget all result and console URIs; answers what was removed",
        tag="uris",
        path_type=wire.ExecutionPath,
        answers={200: wire.Removed},
        problems=(*WRITE_PROBLEMS, problems.NotDelivered),
        headers={
            "Prefer": Header("wait=N: answer 504 with the write's id after N seconds, not 30.")
        },
    ),
)
