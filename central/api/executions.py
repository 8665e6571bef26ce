"""Executions: create, read, list."""

import re

from aiohttp import web

from central.api.idempotent import run_once
from central.auth.authenticator import AuthenticatedRoute, Reader, RunReader, Writer
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
from kit.http.routing import Response, RouteTable, TypedRequest
from kit.texera.statuses import Status, parse_status

EXECUTIONS: web.AppKey[Executions] = web.AppKey("executions", Executions)

_CODE = re.compile(r"-?[0-9]{1,3}")

routes = RouteTable(AuthenticatedRoute, tag="executions")


@routes.post(
    "/v1/executions",
    statuses=(201,),
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
)
async def create_execution(
    request: TypedRequest[Writer, None, None, calls.ExecutionRequest],
) -> Response[calls.NewExecution]:
    """Create an execution and bind it to the calling sidecar."""
    writer, executions = request.caller, request.app[EXECUTIONS]

    async def work(transaction: Transaction) -> calls.NewExecution:
        # Checked inside, so that a repeat returns the stored response whatever the unit is now.
        writer.workload.check(request.body.computing_unit_id)
        return await executions.create(transaction, writer.user, writer.source_id, request.body)

    return await run_once(request, work, status=201)


@routes.get("/v1/executions/{execution_id}", problems=(ExecutionNotFound,))
async def fetch_execution(
    request: TypedRequest[RunReader, calls.ExecutionPath, None, None],
) -> Response[calls.Execution]:
    """An execution's row."""
    executions = request.app[EXECUTIONS]
    return Response(await executions.read(request.caller.user, request.path.execution_id))


@routes.get(
    "/v1/workflows/{workflow_id}/executions/latest",
    tag="workflows",
    problems=(WorkflowNotFound, NoExecution),
)
async def fetch_latest_execution(
    request: TypedRequest[Reader, calls.WorkflowPath, calls.LatestQuery, None],
) -> Response[calls.Execution]:
    """The workflow's newest execution, on one computing unit or on any."""
    workflow_id, unit_id = request.path.workflow_id, request.query.computing_unit_id
    executions = request.app[EXECUTIONS]
    return Response(await executions.latest(request.caller.user, workflow_id, unit_id))


@routes.get("/v1/workflows/{workflow_id}/executions", tag="workflows", problems=(WorkflowNotFound,))
async def list_executions(
    request: TypedRequest[Reader, calls.WorkflowPath, calls.ListQuery, None],
) -> Response[calls.ExecutionPage]:
    """The workflow's executions, newest first."""
    query = request.query
    page = await request.app[EXECUTIONS].list(
        request.caller.user,
        request.path.workflow_id,
        computing_unit_id=query.computing_unit_id,
        status_codes=None if query.status is None else _status_codes(query.status),
        before=query.before,
        limit=query.limit,
    )
    return Response(page)


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
