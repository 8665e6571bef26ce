"""Calls about one computing unit: boots of its master process, clean-up of its old runs."""

import msgspec

from kit.http.routing import Response
from kit.http.validation import idempotency_key
from sidecar.api.services import FORWARDED_WRITE, Request, route_table, services
from sidecar.reads import build_target
from sidecar.wire import forwarded

_UNIT = "/v1/computing-units/{computing_unit_id}"
_EXPIRED = _UNIT + "/expired-executions"

routes = route_table("computing units")


@routes.post(_UNIT + "/boots", **FORWARDED_WRITE)
async def begin_boot(
    request: Request[forwarded.ComputingUnitPath, None, forwarded.BootRequest],
) -> Response[forwarded.ClosedExecutions]:
    """Say that a new master process has started: the runs of those before it end."""
    calls, unit_id = services(request).forwarded, request.path.computing_unit_id
    key = idempotency_key(request.http.headers)
    return Response(await calls.register_boot(unit_id, request.body, key, request.caller))


@routes.get(_EXPIRED)
async def list_expired(
    request: Request[forwarded.ComputingUnitPath, forwarded.ExpiredQuery, None],
) -> Response[forwarded.ExpiredExecutions]:
    """Ended runs of this unit past the TTL that have a result or a log, oldest first."""
    target = build_target(_expired(request.path), msgspec.to_builtins(request.query))
    return Response(await services(request).forwarded.expired(target, request.caller))


@routes.post(_EXPIRED + "/clear", **FORWARDED_WRITE)
async def clear_expired(
    request: Request[forwarded.ComputingUnitPath, None, forwarded.ExpiredSelection],
) -> Response[forwarded.ClearedExecutions]:
    """Empty result and log location of ended runs of this unit, all or none."""
    target, key = _expired(request.path), idempotency_key(request.http.headers)
    unit_id, clear = request.path.computing_unit_id, services(request).forwarded.clear
    return Response(await clear(unit_id, target, request.body, key, request.caller))


def _expired(path: forwarded.ComputingUnitPath) -> str:
    return _EXPIRED.format(computing_unit_id=path.computing_unit_id)
