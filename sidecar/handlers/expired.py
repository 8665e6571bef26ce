"""Clean-up of one computing unit: runs that ended long ago and still point to results or logs."""

import msgspec

from sidecar import wire_sync
from sidecar.handlers.executions import READ_PROBLEMS
from sidecar.handlers.selections import SYNC_WRITE
from sidecar.kit.routing import Answer, Call, NoParameters, Route
from sidecar.reads import target_of
from sidecar.services import idempotency_key, services
from sidecar.upstream.client import CallContext


async def list_expired(
    call: Call[CallContext, wire_sync.ComputingUnitPath, wire_sync.ExpiredQuery, None],
) -> Answer:
    target = target_of(_target(call.path), msgspec.to_builtins(call.query))
    return Answer(await services(call.request).sync_calls.expired(target, call.caller))


async def clear_expired(
    call: Call[CallContext, wire_sync.ComputingUnitPath, NoParameters, wire_sync.ExpiredSelection],
) -> Answer:
    target, key = _target(call.path) + "/clear", idempotency_key(call.request)
    sync_calls = services(call.request).sync_calls
    return Answer(await sync_calls.clear(target, call.body, key, call.caller))


def _target(path: wire_sync.ComputingUnitPath) -> str:
    return _EXPIRED.format(computing_unit_id=path.computing_unit_id)


_EXPIRED = "/v1/computing-units/{computing_unit_id}/expired-executions"

ROUTES = (
    Route(
        method="GET",
        path=_EXPIRED,
        handler=list_expired,
        summary="Ended runs of this unit past the TTL that have a result or a log, oldest first",
        tag="computing units",
        path_type=wire_sync.ComputingUnitPath,
        query_type=wire_sync.ExpiredQuery,
        answers={200: wire_sync.ExpiredExecutions},
        problems=READ_PROBLEMS,
    ),
    Route(
        path=_EXPIRED + "/clear",
        handler=clear_expired,
        summary="Empty result and log location of ended runs of this unit, all or none",
        tag="computing units",
        path_type=wire_sync.ComputingUnitPath,
        body_type=wire_sync.ExpiredSelection,
        answers={200: wire_sync.ClearedExecutions},
        **SYNC_WRITE,
    ),
)
