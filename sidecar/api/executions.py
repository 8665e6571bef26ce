"""Executions: create, read, change, list."""

from functools import partial
from typing import TypeAlias

import msgspec

from kit.http.routing import Answer, Call, Header, NoParameters, Route
from sidecar import problems, write_operations
from sidecar.api.durable import EntryFactory, durable
from sidecar.api.services import IDEMPOTENCY_HEADER, cached_response, idempotency_key, services
from sidecar.upstream.client import CallContext
from sidecar.wire import v1

ExecutionCall: TypeAlias = Call[CallContext, v1.ExecutionPath, NoParameters, None]
PREFER = {"Prefer": Header("wait=N: answer 200 once central has committed, within N seconds.")}
_DURABLE = {202: v1.WriteAnswer, 200: v1.WriteAnswer}
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
    call: Call[CallContext, NoParameters, NoParameters, v1.NewExecutionRequest],
) -> Answer:
    created = await services(call.request).writes.create(
        msgspec.json.encode(call.body), idempotency_key(call.request), call.caller
    )
    return Answer(created, 201)


async def fetch_execution(call: ExecutionCall) -> Answer:
    seen = await services(call.request).reads.execution(call.path.execution_id, call.caller)
    return cached_response(call.request, seen.value.execution, seen)


async def change_execution(
    call: Call[CallContext, v1.ExecutionPath, NoParameters, v1.ExecutionChanges],
) -> Answer:
    def prepare(body: v1.ExecutionChanges) -> EntryFactory:
        return partial(write_operations.update_execution, write_operations.patch_fields(body))

    return await durable(call, call.path.execution_id, prepare)


async def fetch_latest_execution(
    call: Call[CallContext, v1.WorkflowPath, v1.LatestQuery, None],
) -> Answer:
    seen = await services(call.request).reads.latest(
        call.path.workflow_id, call.query.computing_unit_id, call.caller
    )
    return cached_response(call.request, seen.value.execution, seen)


async def list_executions(
    call: Call[CallContext, v1.WorkflowPath, v1.ListQuery, None],
) -> Answer:
    query = call.query
    for name in (query.status or "").split(",") if query.status is not None else ():
        write_operations.parse_status_field(_name_or_code(name.strip()))
    forwarded = services(call.request).forwarded
    return Answer(await forwarded.page(call.path.workflow_id, query, call.caller))


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
        body_type=v1.NewExecutionRequest,
        answers={201: v1.NewExecution},
        problems=READ_PROBLEMS,
        headers=IDEMPOTENCY_HEADER,
    ),
    Route(
        method="GET",
        path="/v1/executions/{execution_id}",
        handler=fetch_execution,
        summary="An execution's row, with waiting writes applied",
        tag="executions",
        path_type=v1.ExecutionPath,
        answers={200: v1.Execution},
        problems=READ_PROBLEMS,
    ),
    Route(
        method="PATCH",
        path="/v1/executions/{execution_id}",
        handler=change_execution,
        summary="Change status or other fields; one write, applied or refused as a whole",
        tag="executions",
        path_type=v1.ExecutionPath,
        body_type=v1.ExecutionChanges,
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
        path_type=v1.WorkflowPath,
        query_type=v1.LatestQuery,
        answers={200: v1.Execution},
        problems=READ_PROBLEMS,
    ),
    Route(
        method="GET",
        path="/v1/workflows/{workflow_id}/executions",
        handler=list_executions,
        summary="The workflow's executions, newest first",
        tag="workflows",
        path_type=v1.WorkflowPath,
        query_type=v1.ListQuery,
        answers={200: v1.ExecutionPage},
        problems=READ_PROBLEMS,
    ),
)
