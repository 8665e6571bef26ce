"""Single-call writes: each is one entry, committed before the response."""

from typing import Annotated, Any

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
from kit.http.problems import InvalidRequest
from kit.http.routing import Response, RouteTable, TypedRequest
from kit.texera.fields import OperatorId

WRITES: web.AppKey[Writes] = web.AppKey("writes", Writes)

_EXECUTION = "/v1/executions/{execution_id}"
_PORT = _EXECUTION + "/ports/{global_port_id}"
_CONSOLE = _EXECUTION + "/operators/{operator_id}/console"

routes = RouteTable(
    AuthenticatedRoute,
    tag="writes",
    problems=(
        problems.ExecutionNotFound,
        problems.NotTheExecutionsUser,
        problems.NotBound,
        problems.BindingRevoked,
        problems.UserDemoted,
    ),
)


class OperatorCosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    operators: Annotated[
        dict[OperatorId, Seconds],
        msgspec.Meta(description="the seconds that each operator took"),
    ]


@routes.patch(
    _EXECUTION,
    problems=(
        problems.UriMismatch,
        problems.NotTheRunner,
        problems.Late,
        problems.StatusConflict,
    ),
)
async def change_execution(
    request: TypedRequest[Writer, calls.ExecutionPath, None, calls.ExecutionChanges],
) -> Response[calls.Committed]:
    """Change columns of an execution, all or none."""
    changes: dict[str, Any] = asdict(request.body)
    changes["name"] = changes["name"] or None  # an empty name means absent, as in Texera
    if changes == asdict(calls.ExecutionChanges()):
        raise InvalidRequest(f"nothing to change: expected at least one of {', '.join(changes)}")
    return await _apply(request, UpdateExecution(**_header(request), **changes))


@routes.put(_PORT, problems=(problems.UriMismatch, problems.UriConflict))
async def put_port_result(
    request: TypedRequest[Writer, calls.PortPath, None, calls.PortResult],
) -> Response[calls.Committed]:
    """Store where a port's result is, once."""
    port, body = request.path.global_port_id, asdict(request.body)
    return await _apply(request, PutPortResult(**_header(request), global_port_id=port, **body))


@routes.patch(_PORT, problems=(problems.PortResultNotFound,))
async def set_port_result_size(
    request: TypedRequest[Writer, calls.PortPath, None, calls.PortResultSize],
) -> Response[calls.Committed]:
    """Set the size of a port's result."""
    port, body = request.path.global_port_id, asdict(request.body)
    entry = SetPortResultBytes(**_header(request), global_port_id=port, **body)
    return await _apply(request, entry)


@routes.put(_CONSOLE, problems=(problems.UriMismatch, problems.UriConflict))
async def put_console(
    request: TypedRequest[Writer, calls.OperatorPath, None, calls.Console],
) -> Response[calls.Committed]:
    """Store where an operator's console messages are, once."""
    operator, body = request.path.operator_id, asdict(request.body)
    return await _apply(request, PutConsole(**_header(request), operator_id=operator, **body))


@routes.patch(_CONSOLE, problems=(problems.ConsoleNotFound,))
async def set_console_size(
    request: TypedRequest[Writer, calls.OperatorPath, None, calls.ConsoleSize],
) -> Response[calls.Committed]:
    """Set the size of an operator's console messages."""
    operator, body = request.path.operator_id, asdict(request.body)
    return await _apply(request, SetConsoleBytes(**_header(request), operator_id=operator, **body))


@routes.delete(_EXECUTION + "/uris")
async def delete_uris(
    request: TypedRequest[Writer, calls.ExecutionPath, None, None],
) -> Response[Removed]:
    """Remove the rows of both registries; returns what they held."""
    return await _apply(request, DeleteUris(**_header(request)))


@routes.put(_EXECUTION + "/operator-costs")
async def put_operator_costs(
    request: TypedRequest[Writer, calls.ExecutionPath, None, OperatorCosts],
) -> Response[calls.Committed]:
    """Keep the seconds that each operator took."""
    return await _apply(request, PutOperatorCosts(**_header(request), **asdict(request.body)))


def _header(request: TypedRequest[Writer, Any, None, Any]) -> dict[str, Any]:
    """No number and no age: the caller waits, so the write was made just now by any clock."""
    return {"seq": 0, "execution_id": request.path.execution_id, "made_at_ms": 0}


async def _apply(request: TypedRequest[Writer, Any, None, Any], entry: AnyEntry) -> Response[Any]:
    check_entry(entry)
    route = f"{request.http.method} {request.http.path}"
    stored = await request.app[WRITES].apply(request.caller, route, request.raw_body, entry)
    return Response(stored.body, stored.status)
