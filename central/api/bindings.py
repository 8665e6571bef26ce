"""Bindings, and the facts of a token: what a sidecar needs before it may write."""

from datetime import UTC, datetime

from aiohttp import web

from central.api.idempotent import run_once
from central.auth.authenticator import AuthenticatedRoute, Reader, Source, Writer
from central.auth.run_tokens import RunTokens
from central.problems import (
    BootSuperseded,
    BoundElsewhere,
    ExecutionNotFound,
    NotBound,
    NotTheExecutionsUser,
    RunTokensDisabled,
    UserDemoted,
)
from central.store.bindings import Bindings
from central.store.database import Transaction
from central.wire import calls
from central.wire.leases import AbandonedExecutions, ClosedExecutions, OpenBindingsQuery
from kit.http.routing import Response, RouteTable, TypedRequest

RUN_TOKENS: web.AppKey[RunTokens] = web.AppKey("run_tokens", RunTokens)
"""Absent where none are issued."""
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


@routes.post(
    "/v1/executions/{execution_id}/run-token", problems=(NotBound, UserDemoted, RunTokensDisabled)
)
async def issue_run_token(
    request: TypedRequest[Source, calls.ExecutionPath, None, None],
) -> Response[calls.RunToken]:
    """A token with which the calling sidecar reads the execution that it runs."""
    # No idempotency key: a recorded call, sent again, gets a token that is good for its source.
    run_tokens, source = request.app.get(RUN_TOKENS), request.caller
    if run_tokens is None:
        raise RunTokensDisabled("CENTRAL_RUN_TOKEN_KEYS is not set")
    execution_id = request.path.execution_id
    bindings = request.app[BINDINGS]
    user_id = await bindings.runs_user(source.source_id, execution_id, source.workload)
    token, expires_at = run_tokens.issue(user_id, execution_id, source.source_id)
    issued = calls.RunToken(token, datetime.fromtimestamp(expires_at, UTC))
    return Response(issued, headers={"Cache-Control": "no-store"})


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
