"""Executions: create, read, list."""

import re
from typing import Any

from aiohttp import web

from central import wire
from central.auth.callers import AuthenticatedRoute, Needs, Reader, Writer
from central.handlers.keyed import answer_once
from central.kit.problem import invalid_field
from central.kit.routing import Answer, Call, NoParameters
from central.kit.statuses import Status, parse_status
from central.problems import (
    BootSuperseded,
    ComputingUnitForbidden,
    ComputingUnitNotFound,
    ComputingUnitTerminated,
    ExecutionNotFound,
    NoExecution,
    UserDemoted,
    WarehouseNotFound,
    WarehouseUnsupported,
    WorkflowForbidden,
    WorkflowNotFound,
)
from central.store.database import Transaction
from central.store.executions import Executions

EXECUTIONS: web.AppKey[Executions] = web.AppKey("executions", Executions)

_CODE = re.compile(r"-?[0-9]{1,3}")


async def create_execution(
    call: Call[Writer, NoParameters, NoParameters, wire.ExecutionRequest],
) -> Answer:
    writer, executions = call.caller, call.request.app[EXECUTIONS]

    async def work(transaction: Transaction) -> wire.NewExecution:
        # In here, so that a repeat of what was created gets its answer and nothing else is told.
        writer.workload.check(call.body.computing_unit_id)
        return await executions.create(transaction, writer.user, writer.source_id, call.body)

    return await answer_once(call, 201, work)


async def fetch_execution(call: Call[Reader, wire.ExecutionPath, NoParameters, Any]) -> Answer:
    executions = call.request.app[EXECUTIONS]
    return Answer(await executions.read(call.caller.user, call.path.execution_id))


async def fetch_latest_execution(
    call: Call[Reader, wire.WorkflowPath, wire.LatestQuery, Any],
) -> Answer:
    executions = call.request.app[EXECUTIONS]
    unit = call.query.computing_unit_id
    return Answer(await executions.latest(call.caller.user, call.path.workflow_id, unit))


async def list_executions(call: Call[Reader, wire.WorkflowPath, wire.ListQuery, Any]) -> Answer:
    query = call.query
    page = await call.request.app[EXECUTIONS].list(
        call.caller.user,
        call.path.workflow_id,
        computing_unit_id=query.computing_unit_id,
        status_codes=None if query.status is None else _status_codes(query.status),
        before=query.before,
        limit=query.limit,
    )
    return Answer(page)


def _status_codes(text: str) -> list[int]:
    """The codes of comma-separated names or codes. Raises `InvalidRequest`."""
    codes = []
    for item in map(str.strip, text.split(",")):
        try:
            codes.append(parse_status(int(item) if _CODE.fullmatch(item) else item).code)
        except ValueError as error:
            known = ", ".join(Status)
            raise invalid_field("status", f"names or codes of {known}") from error
    return codes


ROUTES = (
    AuthenticatedRoute(
        method="POST",
        path="/v1/executions",
        handler=create_execution,
        summary="Create an execution and bind it to the calling sidecar",
        tag="executions",
        needs=Needs.USER_AND_SOURCE,
        body_type=wire.ExecutionRequest,
        answers={201: wire.NewExecution},
        problems=(
            WorkflowNotFound,
            WorkflowForbidden,
            ComputingUnitNotFound,
            ComputingUnitForbidden,
            ComputingUnitTerminated,
            BootSuperseded,
            UserDemoted,
            WarehouseNotFound,
            WarehouseUnsupported,
        ),
    ),
    AuthenticatedRoute(
        method="GET",
        path="/v1/executions/{execution_id}",
        handler=fetch_execution,
        summary="An execution's row",
        tag="executions",
        needs=Needs.USER,
        path_type=wire.ExecutionPath,
        answers={200: wire.Execution},
        problems=(ExecutionNotFound,),
    ),
    AuthenticatedRoute(
        method="GET",
        path="/v1/workflows/{workflow_id}/executions/latest",
        handler=fetch_latest_execution,
        summary="The workflow's newest execution, on one computing unit or on any",
        tag="workflows",
        needs=Needs.USER,
        path_type=wire.WorkflowPath,
        query_type=wire.LatestQuery,
        answers={200: wire.Execution},
        problems=(WorkflowNotFound, NoExecution),
    ),
    AuthenticatedRoute(
        method="GET",
        path="/v1/workflows/{workflow_id}/executions",
        handler=list_executions,
        summary="The workflow's executions, newest first",
        tag="workflows",
        needs=Needs.USER,
        path_type=wire.WorkflowPath,
        query_type=wire.ListQuery,
        answers={200: wire.ExecutionPage},
        problems=(WorkflowNotFound,),
    ),
)
