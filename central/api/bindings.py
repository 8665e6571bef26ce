"""Bindings, and the facts of a token: what a sidecar needs before it may write."""

from datetime import UTC, datetime

from aiohttp import web

from central.api.idempotent import run_once
from central.auth.authenticator import AuthenticatedRoute, Reader, Source, Writer
from central.problems import (
    BootSuperseded,
    BoundElsewhere,
    ExecutionNotFound,
    NotTheExecutionsUser,
    UserDemoted,
)
from central.store.bindings import Bindings
from central.store.database import Transaction
from central.wire import calls
from central.wire.leases import AbandonedExecutions, ClosedExecutions, OpenBindingsQuery
from kit.http.routing import Response, RouteTable, TypedRequest

BINDINGS: web.AppKey[Bindings] = web.AppKey("bindings", Bindings)

routes = RouteTable(AuthenticatedRoute, tag="bindings")


@routes.get("/v1/token")
async def fetch_token_facts(
    request: TypedRequest[Reader, None, None, None],
) -> Response[calls.TokenFacts]:
    """Whose token this is."""
    user = request.caller.user
    expires_at = datetime.fromtimestamp(user.expires_at, UTC)
    return Response(calls.TokenFacts(user.user_id, user.role, expires_at))


@routes.post(
    "/v1/executions/{execution_id}/binding",
    problems=(ExecutionNotFound, NotTheExecutionsUser, UserDemoted, BootSuperseded, BoundElsewhere),
)
async def bind_execution(
    request: TypedRequest[Writer, calls.ExecutionPath, None, calls.BindingRequest | None],
) -> Response[calls.BoundExecution]:
    """Let the calling sidecar write to the execution."""
    writer, bindings = request.caller, request.app[BINDINGS]
    boot_id = request.body.boot_id if request.body is not None else None

    async def work(transaction: Transaction) -> calls.BoundExecution:
        return await bindings.bind(
            transaction,
            writer.user,
            writer.source_id,
            request.path.execution_id,
            boot_id,
            writer.workload,
        )

    # Binding is idempotent by itself; the key keeps a replay from undoing a revocation.
    return await run_once(request, work)


@routes.get("/v1/bindings")
async def list_open_bindings(
    request: TypedRequest[Source, None, OpenBindingsQuery, None],
) -> Response[calls.OpenBindings]:
    """The unfinished executions that the calling sidecar may write to."""
    source_id, min_age_s = request.caller.source_id, request.query.min_age_s
    return Response(await request.app[BINDINGS].list_open(source_id, min_age_s))


@routes.post("/v1/bindings/abandoned")
async def abandon_executions(
    request: TypedRequest[Source, None, None, AbandonedExecutions],
) -> Response[ClosedExecutions]:
    """End executions that nobody runs, as the calling sidecar knows."""
    bindings, source = request.app[BINDINGS], request.caller
    unit_id = source.workload.enforced_unit_id
    return Response(await bindings.abandon(source.source_id, request.body, unit_id))
