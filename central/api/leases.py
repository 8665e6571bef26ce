"""Leases and boots: what says that a computing unit is alive, and that it is another one."""

from aiohttp import web

from central.api.idempotent import run_once
from central.auth.authenticator import AuthenticatedRoute, CredentialPolicy, Source, Writer
from central.problems import (
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
from kit.http.routing import Answer, Call, NoParameters

BOOTS: web.AppKey[Boots] = web.AppKey("boots", Boots)
LEASES: web.AppKey[Leases] = web.AppKey("leases", Leases)

RENEWALS_PATH = "/v1/lease-renewals"


async def renew_leases(
    call: Call[Source, NoParameters, NoParameters, ExecutionList],
) -> Answer:
    # No idempotency key: a replay within the assertion's minute renews once more at most.
    leases, source = call.request.app[LEASES], call.caller
    unit_id = source.workload.enforced_unit_id
    return Answer(await leases.renew(source.source_id, call.body.execution_ids, unit_id))


async def begin_boot(
    call: Call[Writer, calls.ComputingUnitPath, NoParameters, BootRequest],
) -> Answer:
    writer, boots, unit_id = call.caller, call.request.app[BOOTS], call.path.computing_unit_id

    async def work(transaction: Transaction) -> ClosedExecutions:
        return await boots.begin(
            transaction, writer.user, writer.source_id, unit_id, call.body.boot_id
        )

    return await run_once(call, 200, work)


ROUTES = (
    AuthenticatedRoute(
        method="POST",
        path=RENEWALS_PATH,
        handler=renew_leases,
        summary="Renew the leases of the calling sidecar's executions, all at once",
        tag="leases",
        needs=CredentialPolicy.SOURCE,
        body_type=ExecutionList,
        answers={200: RenewedLeases},
    ),
    AuthenticatedRoute(
        method="POST",
        path="/v1/computing-units/{computing_unit_id}/boots",
        handler=begin_boot,
        summary="A new master process: end the runs of those before it",
        tag="leases",
        needs=CredentialPolicy.USER_AND_SOURCE,
        path_type=calls.ComputingUnitPath,
        body_type=BootRequest,
        answers={200: ClosedExecutions},
        problems=(UserDemoted, ComputingUnitNotFound, ComputingUnitForbidden, BootSuperseded),
    ),
)
