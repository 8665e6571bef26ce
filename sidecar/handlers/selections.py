"""Executions that their user has selected: deleted or bookmarked together."""

from typing import Any

from sidecar import problems, wire_sync
from sidecar.handlers.executions import READ_PROBLEMS
from sidecar.kit.routing import Answer, Call, NoParameters, Route
from sidecar.services import KEYED, idempotency_key, services
from sidecar.upstream.client import CallContext


async def delete_executions(
    call: Call[CallContext, NoParameters, NoParameters, wire_sync.Selection],
) -> Answer:
    key = idempotency_key(call.request)
    return Answer(await services(call.request).sync_calls.delete(call.body, key, call.caller))


async def bookmark_executions(
    call: Call[CallContext, NoParameters, NoParameters, wire_sync.BookmarkSelection],
) -> Answer:
    key = idempotency_key(call.request)
    return Answer(await services(call.request).sync_calls.bookmark(call.body, key, call.caller))


SYNC_WRITE: dict[str, Any] = {
    "method": "POST",
    "problems": (*READ_PROBLEMS, problems.NotDelivered),
    "headers": KEYED,
}

ROUTES = (
    Route(
        path="/v1/executions/delete",
        handler=delete_executions,
        summary="Delete executions of one workflow, all or none; answers the URIs they had",
        tag="executions",
        body_type=wire_sync.Selection,
        answers={200: wire_sync.DeletedExecutions},
        **SYNC_WRITE,
    ),
    Route(
        path="/v1/executions/bookmark",
        handler=bookmark_executions,
        summary="Set or remove the bookmark of executions of one workflow, all or none",
        tag="executions",
        body_type=wire_sync.BookmarkSelection,
        answers={200: wire_sync.BookmarkedExecutions},
        **SYNC_WRITE,
    ),
)
