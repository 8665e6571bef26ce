"""Clean-up per computing unit: runs that ended long ago and still point to results or logs."""

from functools import partial

from aiohttp import web

from central.api.idempotent import run_once
from central.auth.authenticator import AuthenticatedRoute, Reader, Writer
from central.problems import (
    ComputingUnitForbidden,
    ComputingUnitNotFound,
    ExecutionNotEnded,
    ExecutionNotFound,
    UserDemoted,
)
from central.store.expired import Expired
from central.wire import calls
from kit.http.routing import Response, RouteTable, TypedRequest

EXPIRED: web.AppKey[Expired] = web.AppKey("expired", Expired)

_UNIT = "/v1/computing-units/{computing_unit_id}/expired-executions"

routes = RouteTable(
    AuthenticatedRoute,
    tag="computing units",
    problems=(ComputingUnitNotFound, ComputingUnitForbidden),
)


@routes.get(_UNIT)
async def list_expired(
    request: TypedRequest[Reader, calls.ComputingUnitPath, calls.ExpiredQuery, None],
) -> Response[calls.ExpiredExecutions]:
    """Ended runs of this unit past the TTL that have a result or a log, oldest first."""
    expired, unit_id = request.app[EXPIRED], request.path.computing_unit_id
    return Response(await expired.list(request.caller.user, unit_id, request.query))


@routes.post(_UNIT + "/clear", problems=(UserDemoted, ExecutionNotFound, ExecutionNotEnded))
async def clear_expired(
    request: TypedRequest[Writer, calls.ComputingUnitPath, None, calls.ExpiredSelection],
) -> Response[calls.ClearedExecutions]:
    """Empty result and log location of ended runs of this unit, all or none."""
    work = partial(
        request.app[EXPIRED].clear,
        user=request.caller.user,
        computing_unit_id=request.path.computing_unit_id,
        selection=request.body,
    )
    return await run_once(request, work)
