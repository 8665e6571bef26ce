"""Executions selected by their user: deleted or bookmarked together."""

from kit.http.routing import Response
from kit.http.validation import idempotency_key
from sidecar.api.services import FORWARDED_WRITE, Request, route_table, services
from sidecar.wire import forwarded

routes = route_table("executions")


@routes.post("/v1/executions/delete", **FORWARDED_WRITE)
async def delete_executions(
    request: Request[None, None, forwarded.Selection],
) -> Response[forwarded.DeletedExecutions]:
    """Delete executions of one workflow, all or none; returns the URIs they had."""
    key, delete = idempotency_key(request.http.headers), services(request).forwarded.delete
    return Response(await delete(request.body, key, request.caller))


@routes.post("/v1/executions/bookmark", **FORWARDED_WRITE)
async def bookmark_executions(
    request: Request[None, None, forwarded.BookmarkSelection],
) -> Response[forwarded.BookmarkedExecutions]:
    """Set or remove the bookmark of executions of one workflow, all or none."""
    key, bookmark = idempotency_key(request.http.headers), services(request).forwarded.bookmark
    return Response(await bookmark(request.body, key, request.caller))
