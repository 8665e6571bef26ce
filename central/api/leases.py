"""Leases and boots: what says that a computing unit is alive, and that it has restarted."""

from aiohttp import web

from central.api.idempotent import run_once
from central.auth.authenticator import AuthenticatedRoute, Source, Writer
from central.problems import (
    BootForbidden,
    BootSuperseded,
    ComputingUnitForbidden,
    ComputingUnitNotFound,
    UserDemoted,
)
from central.store.boots import Boots
from central.store.database import Transaction
from central.store.leases import Leases
from central.wire import calls
from central.wire.leases import BootRequest, ClosedExecutions, ExecutionList, RenewedLeases
from kit.http.routing import Response, RouteTable, TypedRequest

BOOTS: web.AppKey[Boots] = web.AppKey("boots", Boots)
LEASES: web.AppKey[Leases] = web.AppKey("leases", Leases)

RENEWALS_PATH = "/v1/lease-renewals"

routes = RouteTable(AuthenticatedRoute, tag="leases")


@routes.post(RENEWALS_PATH)
async def renew_leases(
    request: TypedRequest[Source, None, None, ExecutionList],
) -> Response[RenewedLeases]:
    """Renew the leases of the calling sidecar's executions, all at once."""
    # No idempotency key: a replay within the assertion's minute renews once more at most.
    leases, source = request.app[LEASES], request.caller
    unit_id = source.workload.enforced_unit_id
    return Response(await leases.renew(source.source_id, request.body.execution_ids, unit_id))


@routes.post(
    "/v1/computing-units/{computing_unit_id}/boots",
    problems=(
        UserDemoted,
        ComputingUnitNotFound,
        ComputingUnitForbidden,
        BootForbidden,
        BootSuperseded,
    ),
)
async def begin_boot(
    request: TypedRequest[Writer, calls.ComputingUnitPath, None, BootRequest],
) -> Response[ClosedExecutions]:
    """A new master process: end the runs of those before it."""
    writer, boots, unit_id = request.caller, request.app[BOOTS], request.path.computing_unit_id

    async def work(transaction: Transaction) -> ClosedExecutions:
        return await boots.register(
            transaction,
            writer.user,
            writer.source_id,
            unit_id,
            request.body.boot_id,
            writer.workload,
        )

    return await run_once(request, work)
