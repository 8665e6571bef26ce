"""Boots of the computing unit's master process."""

from kit.http.routing import Answer, Call, NoParameters, Route
from sidecar.api.bulk import SYNC_WRITE
from sidecar.api.services import idempotency_key, services
from sidecar.upstream.client import CallContext
from sidecar.wire import forwarded


async def begin_boot(
    call: Call[CallContext, forwarded.ComputingUnitPath, NoParameters, forwarded.BootRequest],
) -> Answer:
    boots, unit_id = services(call.request).boots, call.path.computing_unit_id
    key = idempotency_key(call.request)
    return Answer(await boots.begin(unit_id, call.body, key, call.caller))


ROUTES = (
    Route(
        path="/v1/computing-units/{computing_unit_id}/boots",
        handler=begin_boot,
        summary="Say that a new master process has started: the runs of those before it end",
        tag="computing units",
        path_type=forwarded.ComputingUnitPath,
        body_type=forwarded.BootRequest,
        answers={200: forwarded.ClosedExecutions},
        **SYNC_WRITE,
    ),
)
