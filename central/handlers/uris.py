"""The registry of URIs, read."""

from typing import Any

from aiohttp import web

from central import wire
from central.auth.callers import AuthenticatedRoute, Needs, Reader
from central.kit.routing import Answer, Call, NoParameters
from central.problems import ConsoleNotFound, ExecutionNotFound, ResultUriNotFound
from central.store.uris import Uris

URIS: web.AppKey[Uris] = web.AppKey("uris", Uris)


async def fetch_uris(call: Call[Reader, wire.ExecutionPath, NoParameters, Any]) -> Answer:
    uris = call.request.app[URIS]
    return Answer(await uris.read_all(call.caller.user, call.path.execution_id))


async def fetch_result_uri(
    call: Call[Reader, wire.ExecutionPath, wire.ResultUriQuery, Any],
) -> Answer:
    uris = call.request.app[URIS]
    return Answer(await uris.result_uri(call.caller.user, call.path.execution_id, call.query))


async def fetch_console(call: Call[Reader, wire.StoredOperatorPath, NoParameters, Any]) -> Answer:
    uris, path = call.request.app[URIS], call.path
    return Answer(await uris.console(call.caller.user, path.execution_id, path.operator_id))


ROUTES = (
    AuthenticatedRoute(
        method="GET",
        path="/v1/executions/{execution_id}/uris",
        handler=fetch_uris,
        summary="All URIs of an execution, with sizes",
        tag="uris",
        needs=Needs.USER,
        path_type=wire.ExecutionPath,
        answers={200: wire.ExecutionUris},
        problems=(ExecutionNotFound,),
    ),
    AuthenticatedRoute(
        method="GET",
        path="/v1/executions/{execution_id}/result-uri",
        handler=fetch_result_uri,
        summary="The result URI of a logical output port",
        tag="uris",
        needs=Needs.USER,
        path_type=wire.ExecutionPath,
        query_type=wire.ResultUriQuery,
        answers={200: wire.ResultUri},
        problems=(ExecutionNotFound, ResultUriNotFound),
    ),
    AuthenticatedRoute(
        method="GET",
        path="/v1/executions/{execution_id}/operators/{operator_id}/console",
        handler=fetch_console,
        summary="An operator's console URI",
        tag="uris",
        needs=Needs.USER,
        path_type=wire.StoredOperatorPath,
        answers={200: wire.OperatorConsole},
        problems=(ExecutionNotFound, ConsoleNotFound),
    ),
)
