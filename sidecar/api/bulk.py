"""Executions that their user has selected: deleted or bookmarked together."""

from typing import Any

from kit.http.routing import Answer, Call, NoParameters, Route
from sidecar import problems
from sidecar.api.executions import READ_PROBLEMS
from sidecar.api.services import IDEMPOTENCY_HEADER, idempotency_key, services
from sidecar.upstream.client import CallContext
from sidecar.wire import forwarded


async def delete_executions(
    call: Call[CallContext, NoParameters, NoParameters, forwarded.Selection],
) -> Answer:
    key = idempotency_key(call.request)
    return Answer(await services(call.request).forwarded.delete(call.body, key, call.caller))


async def bookmark_executions(
    call: Call[CallContext, NoParameters, NoParameters, forwarded.BookmarkSelection],
) -> Answer:
    key = idempotency_key(call.request)
    return Answer(await services(call.request).forwarded.bookmark(call.body, key, call.caller))


SYNC_WRITE: dict[str, Any] = {
    "method": "POST",
    "problems": (*READ_PROBLEMS, problems.DeliveryTimeout),
    "headers": IDEMPOTENCY_HEADER,
}

ROUTES = (
    Route(
        path="/v1/executions/delete",
        handler=delete_executions,
        summary="Delete executions of one workflow, all or none; answers the URIs they had",
        tag="executions",
        body_type=forwarded.Selection,
        answers={200: forwarded.DeletedExecutions},
        **SYNC_WRITE,
    ),
    Route(
        path="/v1/executions/bookmark",
        handler=bookmark_executions,
        summary="Set or remove the bookmark of executions of one workflow, all or none",
        tag="executions",
        body_type=forwarded.BookmarkSelection,
        answers={200: forwarded.BookmarkedExecutions},
        **SYNC_WRITE,
    ),
)
