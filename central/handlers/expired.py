"""Clean-up per computing unit: runs that ended long ago and still point to results or logs."""

from functools import partial

from aiohttp import web

from central import wire
from central.auth.callers import AuthenticatedRoute, Needs, Reader, Writer
from central.handlers.keyed import answer_once
from central.kit.routing import Answer, Call, NoParameters
from central.problems import (
    ComputingUnitForbidden,
    ComputingUnitNotFound,
    ExecutionNotEnded,
    ExecutionNotFound,
    UserDemoted,
)
from central.store.expired import Expired

EXPIRED: web.AppKey[Expired] = web.AppKey("expired", Expired)


async def list_expired(
    call: Call[Reader, wire.ComputingUnitPath, wire.ExpiredQuery, None],
) -> Answer:
    expired, unit = call.request.app[EXPIRED], call.path.computing_unit_id
    return Answer(await expired.list(call.caller.user, unit, call.query))


async def clear_expired(
    call: Call[Writer, wire.ComputingUnitPath, NoParameters, wire.ExpiredSelection],
) -> Answer:
    work = partial(
        call.request.app[EXPIRED].clear,
        user=call.caller.user,
        computing_unit_id=call.path.computing_unit_id,
        selection=call.body,
    )
    return await answer_once(call, 200, work)


_UNIT = "/v1/computing-units/{computing_unit_id}/expired-executions"

ROUTES = (
    AuthenticatedRoute(
        method="GET",
        path=_UNIT,
        handler=list_expired,
        summary="Ended runs of this unit past the TTL that have a result or a log, oldest first",
        tag="computing units",
        needs=Needs.USER,
        path_type=wire.ComputingUnitPath,
        query_type=wire.ExpiredQuery,
        answers={200: wire.ExpiredExecutions},
        problems=(ComputingUnitNotFound, ComputingUnitForbidden),
    ),
    AuthenticatedRoute(
        method="POST",
        path=_UNIT + "/clear",
        handler=clear_expired,
        summary="Empty result and log location of ended runs of this unit, all or none",
        tag="computing units",
        path_type=wire.ComputingUnitPath,
        body_type=wire.ExpiredSelection,
        answers={200: wire.ClearedExecutions},
        problems=(
            ComputingUnitNotFound,
            ComputingUnitForbidden,
            UserDemoted,
            ExecutionNotFound,
            ExecutionNotEnded,
        ),
    ),
)
