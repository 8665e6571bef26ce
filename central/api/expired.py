"""Clean-up per computing unit: runs that ended long ago and still point to results or logs."""

from functools import partial

from aiohttp import web

from central.api.idempotent import run_once
from central.auth.authenticator import AuthenticatedRoute, CredentialPolicy, Reader, Writer
from central.problems import (
    ComputingUnitForbidden,
    ComputingUnitNotFound,
    ExecutionNotEnded,
    ExecutionNotFound,
    UserDemoted,
)
from central.store.expired import Expired
from central.wire import calls
from kit.http.routing import Answer, Call, NoParameters

EXPIRED: web.AppKey[Expired] = web.AppKey("expired", Expired)


async def list_expired(
    call: Call[Reader, calls.ComputingUnitPath, calls.ExpiredQuery, None],
) -> Answer:
    expired, unit = call.request.app[EXPIRED], call.path.computing_unit_id
    return Answer(await expired.list(call.caller.user, unit, call.query))


async def clear_expired(
    call: Call[Writer, calls.ComputingUnitPath, NoParameters, calls.ExpiredSelection],
) -> Answer:
    work = partial(
        call.request.app[EXPIRED].clear,
        user=call.caller.user,
        computing_unit_id=call.path.computing_unit_id,
        selection=call.body,
    )
    return await run_once(call, 200, work)


_UNIT = "/v1/computing-units/{computing_unit_id}/expired-executions"

ROUTES = (
    AuthenticatedRoute(
        method="GET",
        path=_UNIT,
        handler=list_expired,
        summary="Ended runs of this unit past the TTL that have a result or a log, oldest first",
        tag="computing units",
        needs=CredentialPolicy.USER,
        path_type=calls.ComputingUnitPath,
        query_type=calls.ExpiredQuery,
        answers={200: calls.ExpiredExecutions},
        problems=(ComputingUnitNotFound, ComputingUnitForbidden),
    ),
    AuthenticatedRoute(
        method="POST",
        path=_UNIT + "/clear",
        handler=clear_expired,
        summary="Empty result and log location of ended runs of this unit, all or none",
        tag="computing units",
        path_type=calls.ComputingUnitPath,
        body_type=calls.ExpiredSelection,
        answers={200: calls.ClearedExecutions},
        problems=(
            ComputingUnitNotFound,
            ComputingUnitForbidden,
            UserDemoted,
            ExecutionNotFound,
            ExecutionNotEnded,
        ),
    ),
)
