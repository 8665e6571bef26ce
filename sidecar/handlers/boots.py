"""Boots of the computing unit's master process."""

from sidecar import wire_sync
from sidecar.handlers.selections import SYNC_WRITE
from sidecar.kit.routing import Answer, Call, NoParameters, Route
from sidecar.services import idempotency_key, services
from sidecar.upstream.client import CallContext


async def begin_boot(
    call: Call[CallContext, wire_sync.ComputingUnitPath, NoParameters, wire_sync.BootRequest],
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
        path_type=wire_sync.ComputingUnitPath,
        body_type=wire_sync.BootRequest,
        answers={200: wire_sync.ClosedExecutions},
        **SYNC_WRITE,
    ),
)
