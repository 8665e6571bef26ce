"""Bindings, and whose token it is: what a sidecar asks before it may write."""

from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from central import wire
from central.auth.callers import AuthenticatedRoute, Needs, Reader, Source, Writer
from central.handlers.keyed import answer_once
from central.kit.routing import Answer, Call, NoParameters
from central.leases import AbandonedExecutions, ClosedExecutions, OpenBindingsQuery
from central.problems import (
    BootSuperseded,
    BoundElsewhere,
    ExecutionNotFound,
    NotTheExecutionsUser,
    UserDemoted,
)
from central.store.bindings import Bindings
from central.store.database import Transaction

BINDINGS: web.AppKey[Bindings] = web.AppKey("bindings", Bindings)


async def fetch_token_facts(call: Call[Reader, NoParameters, NoParameters, Any]) -> Answer:
    user = call.caller.user
    expires_at = datetime.fromtimestamp(user.expires_at, UTC)
    return Answer(wire.TokenFacts(user.user_id, user.role, expires_at))


async def bind_execution(
    call: Call[Writer, wire.ExecutionPath, NoParameters, wire.BindingRequest | None],
) -> Answer:
    writer, bindings = call.caller, call.request.app[BINDINGS]

    boot_id = call.body.boot_id if call.body is not None else None

    async def work(transaction: Transaction) -> wire.BoundExecution:
        return await bindings.bind(
            transaction,
            writer.user,
            writer.source_id,
            call.path.execution_id,
            boot_id,
            writer.workload,
        )

    # Once, although binding twice is binding once: a replay must not undo a revocation.
    return await answer_once(call, 200, work)


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
        needs=Needs.USER,
        answers={200: wire.TokenFacts},
    ),
    AuthenticatedRoute(
        method="POST",
        path="/v1/executions/{execution_id}/binding",
        handler=bind_execution,
        summary="Let the calling sidecar write to the execution",
        tag="bindings",
        needs=Needs.USER_AND_SOURCE,
        path_type=wire.ExecutionPath,
        body_type=wire.BindingRequest,
        body_is_optional=True,
        answers={200: wire.BoundExecution},
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
        needs=Needs.SOURCE,
        query_type=OpenBindingsQuery,
        answers={200: wire.OpenBindings},
    ),
    AuthenticatedRoute(
        method="POST",
        path="/v1/bindings/abandoned",
        handler=abandon_executions,
        summary="End executions that nobody runs, as the calling sidecar knows",
        tag="bindings",
        needs=Needs.SOURCE,
        body_type=AbandonedExecutions,
        answers={200: ClosedExecutions},
    ),
)
