"""Executions: create, read, change, list."""

from functools import partial
from typing import TypeAlias

import msgspec

from sidecar import operations, problems, wire
from sidecar.handlers.durable import EntryOf, durable
from sidecar.kit.routing import Answer, Call, Header, NoParameters, Route
from sidecar.services import KEYED, idempotency_key, seen_answer, services
from sidecar.upstream.client import CallContext

ExecutionCall: TypeAlias = Call[CallContext, wire.ExecutionPath, NoParameters, None]
PREFER = {"Prefer": Header("wait=N: answer 200 once central has committed, within N seconds.")}
_DURABLE = {202: wire.WriteAnswer, 200: wire.WriteAnswer}
WRITE_PROBLEMS = (
    problems.TokenMissing,
    problems.NotLocal,
    problems.SpoolFull,
    problems.SpoolUnavailable,
    problems.SpoolVolumeFull,
    problems.CentralUnavailable,
)
READ_PROBLEMS = (problems.TokenMissing, problems.NotLocal, problems.CentralUnavailable)


async def create_execution(
    call: Call[CallContext, NoParameters, NoParameters, wire.NewExecutionRequest],
) -> Answer:
    created = await services(call.request).writes.create(
        msgspec.json.encode(call.body), idempotency_key(call.request), call.caller
    )
    return Answer(created, 201)


async def fetch_execution(call: ExecutionCall) -> Answer:
    seen = await services(call.request).reads.execution(call.path.execution_id, call.caller)
    return seen_answer(call.request, seen.value.execution, seen)


async def change_execution(
    call: Call[CallContext, wire.ExecutionPath, NoParameters, wire.ExecutionChanges],
) -> Answer:
    def prepare(body: wire.ExecutionChanges) -> EntryOf:
        return partial(operations.update_execution, operations.changed_members(body))

    return await durable(call, call.path.execution_id, prepare)


async def fetch_latest_execution(
    call: Call[CallContext, wire.WorkflowPath, wire.LatestQuery, None],
) -> Answer:
    seen = await services(call.request).reads.latest(
        call.path.workflow_id, call.query.computing_unit_id, call.caller
    )
    return seen_answer(call.request, seen.value.execution, seen)


async def list_executions(
    call: Call[CallContext, wire.WorkflowPath, wire.ListQuery, None],
) -> Answer:
    query = call.query
    for name in (query.status or "").split(",") if query.status is not None else ():
        operations.status_named(_name_or_code(name.strip()))
    sync_calls = services(call.request).sync_calls
    return Answer(await sync_calls.page(call.path.workflow_id, query, call.caller))


def _name_or_code(text: str) -> str | int:
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) < 9 else text


ROUTES = (
    Route(
        method="POST",
        path="/v1/executions",
        handler=create_execution,
        summary="Create an execution; its user is the token's, its status READY",
        tag="executions",
        body_type=wire.NewExecutionRequest,
        answers={201: wire.NewExecution},
        problems=READ_PROBLEMS,
        headers=KEYED,
    ),
    Route(
        method="GET",
        path="/v1/executions/{execution_id}",
        handler=fetch_execution,
        summary="An execution's row, with waiting writes applied",
        tag="executions",
        path_type=wire.ExecutionPath,
        answers={200: wire.Execution},
        problems=READ_PROBLEMS,
    ),
    Route(
        method="PATCH",
        path="/v1/executions/{execution_id}",
        handler=change_execution,
        summary="Change status or other fields; one write, applied or refused as a whole",
        tag="executions",
        path_type=wire.ExecutionPath,
        body_type=wire.ExecutionChanges,
        answers=_DURABLE,
        problems=(*WRITE_PROBLEMS, problems.UriMismatch),
        headers=PREFER,
    ),
    Route(
        method="GET",
        path="/v1/workflows/{workflow_id}/executions/latest",
        handler=fetch_latest_execution,
        summary="The workflow's newest execution, on one computing unit or on any",
        tag="workflows",
        path_type=wire.WorkflowPath,
        query_type=wire.LatestQuery,
        answers={200: wire.Execution},
        problems=READ_PROBLEMS,
    ),
    Route(
        method="GET",
        path="/v1/workflows/{workflow_id}/executions",
        handler=list_executions,
        summary="The workflow's executions, newest first",
        tag="workflows",
        path_type=wire.WorkflowPath,
        query_type=wire.ListQuery,
        answers={200: wire.ExecutionPage},
        problems=READ_PROBLEMS,
    ),
)
