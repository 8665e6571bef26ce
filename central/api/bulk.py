"""Executions selected by their user: deleted or bookmarked together."""

from functools import partial

from aiohttp import web

from central.api.idempotent import run_once
from central.auth.authenticator import AuthenticatedRoute, Writer
from central.problems import ExecutionNotFound, NotTheExecutionsUser, UserDemoted, WorkflowNotFound
from central.store.bulk import BulkExecutions
from central.wire import calls
from kit.http.routing import Response, RouteTable, TypedRequest

SELECTIONS: web.AppKey[BulkExecutions] = web.AppKey("selections", BulkExecutions)

routes = RouteTable(
    AuthenticatedRoute,
    tag="executions",
    problems=(WorkflowNotFound, UserDemoted, ExecutionNotFound, NotTheExecutionsUser),
)


@routes.post("/v1/executions/delete")
async def delete_executions(
    request: TypedRequest[Writer, None, None, calls.Selection],
) -> Response[calls.DeletedExecutions]:
    """Delete executions of one workflow, all or none; returns the URIs they had."""
    delete, writer = request.app[SELECTIONS].delete, request.caller
    work = partial(delete, user=writer.user, selection=request.body, source_id=writer.source_id)
    return await run_once(request, work)


@routes.post("/v1/executions/bookmark")
async def bookmark_executions(
    request: TypedRequest[Writer, None, None, calls.BookmarkSelection],
) -> Response[calls.BookmarkedExecutions]:
    """Set or remove the bookmark of executions of one workflow, all or none."""
    bookmark = request.app[SELECTIONS].bookmark
    work = partial(bookmark, user=request.caller.user, selection=request.body)
    return await run_once(request, work)
