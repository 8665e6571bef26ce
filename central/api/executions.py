"""Executions: create, read, list."""

import re
from typing import Any

from aiohttp import web

from central.api.idempotent import run_once
from central.auth.authenticator import AuthenticatedRoute, CredentialPolicy, Reader, Writer
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
from central.wire import calls
from kit.http.problems import invalid_field
from kit.http.routing import Answer, Call, NoParameters
from kit.texera.statuses import Status, parse_status

EXECUTIONS: web.AppKey[Executions] = web.AppKey("executions", Executions)

_CODE = re.compile(r"-?[0-9]{1,3}")


async def create_execution(
    call: Call[Writer, NoParameters, NoParameters, calls.ExecutionRequest],
) -> Answer:
    writer, executions = call.caller, call.request.app[EXECUTIONS]

    async def work(transaction: Transaction) -> calls.NewExecution:
        # In here, so that a repeat of what was created gets its answer and nothing else is told.
        writer.workload.check(call.body.computing_unit_id)
        return await executions.create(transaction, writer.user, writer.source_id, call.body)

    return await run_once(call, 201, work)


async def fetch_execution(call: Call[Reader, calls.ExecutionPath, NoParameters, Any]) -> Answer:
    executions = call.request.app[EXECUTIONS]
    return Answer(await executions.read(call.caller.user, call.path.execution_id))


async def fetch_latest_execution(
    call: Call[Reader, calls.WorkflowPath, calls.LatestQuery, Any],
) -> Answer:
    executions = call.request.app[EXECUTIONS]
    unit = call.query.computing_unit_id
    return Answer(await executions.latest(call.caller.user, call.path.workflow_id, unit))


async def list_executions(call: Call[Reader, calls.WorkflowPath, calls.ListQuery, Any]) -> Answer:
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
        needs=CredentialPolicy.USER_AND_SOURCE,
        body_type=calls.ExecutionRequest,
        answers={201: calls.NewExecution},
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
        needs=CredentialPolicy.USER,
        path_type=calls.ExecutionPath,
        answers={200: calls.Execution},
        problems=(ExecutionNotFound,),
    ),
    AuthenticatedRoute(
        method="GET",
        path="/v1/workflows/{workflow_id}/executions/latest",
        handler=fetch_latest_execution,
        summary="The workflow's newest execution, on one computing unit or on any",
        tag="workflows",
        needs=CredentialPolicy.USER,
        path_type=calls.WorkflowPath,
        query_type=calls.LatestQuery,
        answers={200: calls.Execution},
        problems=(WorkflowNotFound, NoExecution),
    ),
    AuthenticatedRoute(
        method="GET",
        path="/v1/workflows/{workflow_id}/executions",
        handler=list_executions,
        summary="The workflow's executions, newest first",
        tag="workflows",
        needs=CredentialPolicy.USER,
        path_type=calls.WorkflowPath,
        query_type=calls.ListQuery,
        answers={200: calls.ExecutionPage},
        problems=(WorkflowNotFound,),
    ),
)
