"""Executions that their user has selected: deleted or bookmarked together."""

from functools import partial
from typing import Any

from aiohttp import web

from central.api.idempotent import run_once
from central.auth.authenticator import AuthenticatedRoute, Writer
from central.problems import (
    ExecutionNotFound,
    NotTheExecutionsUser,
    UserDemoted,
    WorkflowNotFound,
)
from central.store.bulk import Selections
from central.wire import calls
from kit.http.routing import Answer, Call, NoParameters

SELECTIONS: web.AppKey[Selections] = web.AppKey("selections", Selections)


async def delete_executions(
    call: Call[Writer, NoParameters, NoParameters, calls.Selection],
) -> Answer:
    selections = call.request.app[SELECTIONS]
    work = partial(selections.delete, user=call.caller.user, selection=call.body)
    return await run_once(call, 200, work)


async def bookmark_executions(
    call: Call[Writer, NoParameters, NoParameters, calls.BookmarkSelection],
) -> Answer:
    selections = call.request.app[SELECTIONS]
    work = partial(selections.bookmark, user=call.caller.user, selection=call.body)
    return await run_once(call, 200, work)


_PARTS: Any = {
    "method": "POST",
    "tag": "executions",
    "problems": (WorkflowNotFound, UserDemoted, ExecutionNotFound, NotTheExecutionsUser),
}

ROUTES = (
    AuthenticatedRoute(
        path="/v1/executions/delete",
        handler=delete_executions,
        summary="Delete executions of one workflow, all or none; answers the URIs they had",
        body_type=calls.Selection,
        answers={200: calls.DeletedExecutions},
        **_PARTS,
    ),
    AuthenticatedRoute(
        path="/v1/executions/bookmark",
        handler=bookmark_executions,
        summary="Set or remove the bookmark of executions of one workflow, all or none",
        body_type=calls.BookmarkSelection,
        answers={200: calls.BookmarkedExecutions},
        **_PARTS,
    ),
)
