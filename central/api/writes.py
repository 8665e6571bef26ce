"""Single-call writes: each is one entry, committed before it is answered."""

from typing import Annotated, Any, TypeAlias

import msgspec
from aiohttp import web
from msgspec.structs import asdict

from central import problems
from central.auth.authenticator import AuthenticatedRoute, Writer
from central.store.writes import Writes
from central.wire import calls
from central.wire.entries import (
    AnyEntry,
    DeleteUris,
    PutConsole,
    PutOperatorCosts,
    PutPortResult,
    Removed,
    Seconds,
    SetConsoleBytes,
    SetPortResultBytes,
    UpdateExecution,
    check_entry,
)
from kit.http.problems import InvalidRequest, Problem
from kit.http.routing import Answer, Call, NoParameters

WRITES: web.AppKey[Writes] = web.AppKey("writes", Writes)


class OperatorCosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    operators: Annotated[
        dict[calls.OperatorId, Seconds],
        msgspec.Meta(description="the seconds that each operator took"),
    ]


ExecutionCall: TypeAlias = Call[Writer, calls.ExecutionPath, NoParameters, Any]
PortCall: TypeAlias = Call[Writer, calls.PortPath, NoParameters, Any]
OperatorCall: TypeAlias = Call[Writer, calls.OperatorPath, NoParameters, Any]


async def change_execution(call: ExecutionCall) -> Answer:
    changes: dict[str, Any] = asdict(call.body)
    changes["name"] = changes["name"] or None  # an empty name means absent, as in Texera
    if changes == asdict(calls.ExecutionChanges()):
        raise InvalidRequest(f"nothing to change: expected at least one of {', '.join(changes)}")
    return await _apply(call, UpdateExecution(**_header(call), **changes))


async def put_port_result(call: PortCall) -> Answer:
    port, body = call.path.global_port_id, asdict(call.body)
    return await _apply(call, PutPortResult(**_header(call), global_port_id=port, **body))


async def resize_port_result(call: PortCall) -> Answer:
    port, body = call.path.global_port_id, asdict(call.body)
    return await _apply(call, SetPortResultBytes(**_header(call), global_port_id=port, **body))


async def put_console(call: OperatorCall) -> Answer:
    operator, body = call.path.operator_id, asdict(call.body)
    return await _apply(call, PutConsole(**_header(call), operator_id=operator, **body))


async def resize_console(call: OperatorCall) -> Answer:
    operator, body = call.path.operator_id, asdict(call.body)
    return await _apply(call, SetConsoleBytes(**_header(call), operator_id=operator, **body))


async def delete_uris(call: ExecutionCall) -> Answer:
    return await _apply(call, DeleteUris(**_header(call)))


async def put_operator_costs(call: ExecutionCall) -> Answer:
    return await _apply(call, PutOperatorCosts(**_header(call), **asdict(call.body)))


def _header(call: Call[Writer, Any, NoParameters, Any]) -> dict[str, Any]:
    """No number, no age: a caller who waits has just made the write, by anyone's clock."""
    return {"seq": 0, "execution_id": call.path.execution_id, "made_at_ms": 0}


async def _apply(call: Call[Writer, Any, NoParameters, Any], entry: AnyEntry) -> Answer:
    check_entry(entry)
    route = f"{call.request.method} {call.request.path}"
    answer = await call.request.app[WRITES].apply(call.caller, route, call.raw_body, entry)
    return Answer(answer.body, answer.status)


_EXECUTION = "/v1/executions/{execution_id}"
_PORT = _EXECUTION + "/ports/{global_port_id}"
_CONSOLE = _EXECUTION + "/operators/{operator_id}/console"

_REFUSALS: tuple[type[Problem], ...] = (
    problems.ExecutionNotFound,
    problems.NotTheExecutionsUser,
    problems.NotBound,
    problems.BindingRevoked,
    problems.UserDemoted,
    problems.ValueOutOfRange,
)
_URI_REFUSALS = (*_REFUSALS, problems.UriMismatch, problems.UriConflict)


def _route(
    method: str, path: str, refusals: tuple[type[Problem], ...], answer: Any, **parts: Any
) -> AuthenticatedRoute:
    return AuthenticatedRoute(
        method=method, path=path, tag="writes", problems=refusals, answers={200: answer}, **parts
    )


ROUTES = (
    _route(
        "PATCH",
        _EXECUTION,
        (*_REFUSALS, problems.UriMismatch, problems.Late, problems.StatusConflict),
        calls.Committed,
        handler=change_execution,
        summary="Change columns of an execution, all or none",
        path_type=calls.ExecutionPath,
        body_type=calls.ExecutionChanges,
    ),
    _route(
        "PUT",
        _PORT,
        _URI_REFUSALS,
        calls.Committed,
        handler=put_port_result,
        summary="Store where a port's result is, once",
        path_type=calls.PortPath,
        body_type=calls.PortResult,
    ),
    _route(
        "PATCH",
        _PORT,
        (*_REFUSALS, problems.PortResultNotFound),
        calls.Committed,
        handler=resize_port_result,
        summary="Set the size of a port's result",
        path_type=calls.PortPath,
        body_type=calls.PortResultSize,
    ),
    _route(
        "PUT",
        _CONSOLE,
        _URI_REFUSALS,
        calls.Committed,
        handler=put_console,
        summary="Store where an operator's console messages are, once",
        path_type=calls.OperatorPath,
        body_type=calls.Console,
    ),
    _route(
        "PATCH",
        _CONSOLE,
        (*_REFUSALS, problems.ConsoleNotFound),
        calls.Committed,
        handler=resize_console,
        summary="Set the size of an operator's console messages",
        path_type=calls.OperatorPath,
        body_type=calls.ConsoleSize,
    ),
    _route(
        "DELETE",
        _EXECUTION + "/uris",
        _REFUSALS,
        Removed,
        handler=delete_uris,
        summary="Remove the rows of both registries and answer what they held",
        path_type=calls.ExecutionPath,
    ),
    _route(
        "PUT",
        _EXECUTION + "/operator-costs",
        _REFUSALS,
        calls.Committed,
        handler=put_operator_costs,
        summary="Keep the seconds that each operator took",
        path_type=calls.ExecutionPath,
        body_type=OperatorCosts,
    ),
)
