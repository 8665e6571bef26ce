"""Bindings, and whose token it is: what a sidecar asks before it may write."""

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from central.api.idempotent import run_once
from central.auth.authenticator import AuthenticatedRoute, CredentialPolicy, Reader, Source, Writer
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
from kit.http.routing import Answer, Call, NoParameters

BINDINGS: web.AppKey[Bindings] = web.AppKey("bindings", Bindings)


async def fetch_token_facts(call: Call[Reader, NoParameters, NoParameters, Any]) -> Answer:
    user = call.caller.user
    expires_at = datetime.fromtimestamp(user.expires_at, UTC)
    return Answer(calls.TokenFacts(user.user_id, user.role, expires_at))


async def bind_execution(
    call: Call[Writer, calls.ExecutionPath, NoParameters, calls.BindingRequest | None],
) -> Answer:
    writer, bindings = call.caller, call.request.app[BINDINGS]

    boot_id = call.body.boot_id if call.body is not None else None

    async def work(transaction: Transaction) -> calls.BoundExecution:
        return await bindings.bind(
            transaction,
            writer.user,
            writer.source_id,
            call.path.execution_id,
            boot_id,
            writer.workload,
        )

    # Once, although binding twice is binding once: a replay must not undo a revocation.
    return await run_once(call, 200, work)


async def list_open_bindings(
    call: Call[Source, NoParameters, OpenBindingsQuery, Any],
) -> Answer:
    bindings = call.request.app[BINDINGS]
    return Answer(await bindings.open_bindings(call.caller.source_id, call.query.min_age_s))


async def abandon_executions(
    call: Call[Source, NoParameters, NoParameters, AbandonedExecutions],
) -> Answer:
    bindings, source = call.request.app[BINDINGS], call.caller
    unit_id = source.workload.enforced_unit_id
    return Answer(await bindings.abandon(source.source_id, call.body, unit_id))


ROUTES = (
    AuthenticatedRoute(
        method="GET",
        path="/v1/token",
        handler=fetch_token_facts,
        summary="Whose token this is",
        tag="bindings",
        needs=CredentialPolicy.USER,
        answers={200: calls.TokenFacts},
    ),
    AuthenticatedRoute(
        method="POST",
        path="/v1/executions/{execution_id}/binding",
        handler=bind_execution,
        summary="Let the calling sidecar write to the execution",
        tag="bindings",
        needs=CredentialPolicy.USER_AND_SOURCE,
        path_type=calls.ExecutionPath,
        body_type=calls.BindingRequest,
        body_is_optional=True,
        answers={200: calls.BoundExecution},
        problems=(
            ExecutionNotFound,
            NotTheExecutionsUser,
            UserDemoted,
            BootSuperseded,
            BoundElsewhere,
        ),
    ),
    AuthenticatedRoute(
        method="GET",
        path="/v1/bindings",
        handler=list_open_bindings,
        summary="The unfinished executions that the calling sidecar may write to",
        tag="bindings",
        needs=CredentialPolicy.SOURCE,
        query_type=OpenBindingsQuery,
        answers={200: calls.BindingQuota},
    ),
    AuthenticatedRoute(
        method="POST",
        path="/v1/bindings/abandoned",
        handler=abandon_executions,
        summary="End executions that nobody runs, as the calling sidecar knows",
        tag="bindings",
        needs=CredentialPolicy.SOURCE,
        body_type=AbandonedExecutions,
        answers={200: ClosedExecutions},
    ),
)
