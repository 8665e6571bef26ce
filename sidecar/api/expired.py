"""Clean-up of one computing unit: runs that ended long ago and still point to results or logs."""

import msgspec

from kit.http.routing import Answer, Call, NoParameters, Route
from sidecar.api.bulk import SYNC_WRITE
from sidecar.api.executions import READ_PROBLEMS
from sidecar.api.services import idempotency_key, services
from sidecar.reads import build_target
from sidecar.upstream.client import CallContext
from sidecar.wire import forwarded


async def list_expired(
    call: Call[CallContext, forwarded.ComputingUnitPath, forwarded.ExpiredQuery, None],
) -> Answer:
    target = build_target(_target(call.path), msgspec.to_builtins(call.query))
    return Answer(await services(call.request).forwarded.expired(target, call.caller))


async def clear_expired(
    call: Call[CallContext, forwarded.ComputingUnitPath, NoParameters, forwarded.ExpiredSelection],
) -> Answer:
    target, key = _target(call.path) + "/clear", idempotency_key(call.request)
    forwarded = services(call.request).forwarded
    return Answer(await forwarded.clear(target, call.body, key, call.caller))


def _target(path: forwarded.ComputingUnitPath) -> str:
    return _EXPIRED.format(computing_unit_id=path.computing_unit_id)


_EXPIRED = "/v1/computing-units/{computing_unit_id}/expired-executions"

ROUTES = (
    Route(
        method="GET",
        path=_EXPIRED,
        handler=list_expired,
        summary="Ended runs of this unit past the TTL that have a result or a log, oldest first",
        tag="computing units",
        path_type=forwarded.ComputingUnitPath,
        query_type=forwarded.ExpiredQuery,
        answers={200: forwarded.ExpiredExecutions},
        problems=READ_PROBLEMS,
    ),
    Route(
        path=_EXPIRED + "/clear",
        handler=clear_expired,
        summary="Empty result and log location of ended runs of this unit, all or none",
        tag="computing units",
        path_type=forwarded.ComputingUnitPath,
        body_type=forwarded.ExpiredSelection,
        answers={200: forwarded.ClearedExecutions},
        **SYNC_WRITE,
    ),
)
