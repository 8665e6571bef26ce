"""The registry of URIs, read."""

from typing import Any

from aiohttp import web

from central.auth.authenticator import AuthenticatedRoute, CredentialPolicy, Reader
from central.problems import ConsoleNotFound, ExecutionNotFound, ResultUriNotFound
from central.store.uris import Uris
from central.wire import calls
from kit.http.routing import Answer, Call, NoParameters

URIS: web.AppKey[Uris] = web.AppKey("uris", Uris)


async def fetch_uris(call: Call[Reader, calls.ExecutionPath, NoParameters, Any]) -> Answer:
    uris = call.request.app[URIS]
    return Answer(await uris.read_all(call.caller.user, call.path.execution_id))


async def fetch_result_uri(
    call: Call[Reader, calls.ExecutionPath, calls.ResultUriQuery, Any],
) -> Answer:
    uris = call.request.app[URIS]
    return Answer(await uris.result_uri(call.caller.user, call.path.execution_id, call.query))


async def fetch_console(call: Call[Reader, calls.StoredOperatorPath, NoParameters, Any]) -> Answer:
    uris, path = call.request.app[URIS], call.path
    return Answer(await uris.console(call.caller.user, path.execution_id, path.operator_id))


ROUTES = (
    AuthenticatedRoute(
        method="GET",
        path="/v1/executions/{execution_id}/uris",
        handler=fetch_uris,
        summary="All URIs of an execution, with sizes",
        tag="uris",
        needs=CredentialPolicy.USER,
        path_type=calls.ExecutionPath,
        answers={200: calls.ExecutionUris},
        problems=(ExecutionNotFound,),
    ),
    AuthenticatedRoute(
        method="GET",
        path="/v1/executions/{execution_id}/result-uri",
        handler=fetch_result_uri,
        summary="The result URI of a logical output port",
        tag="uris",
        needs=CredentialPolicy.USER,
        path_type=calls.ExecutionPath,
        query_type=calls.ResultUriQuery,
        answers={200: calls.ResultUri},
        problems=(ExecutionNotFound, ResultUriNotFound),
    ),
    AuthenticatedRoute(
        method="GET",
        path="/v1/executions/{execution_id}/operators/{operator_id}/console",
        handler=fetch_console,
        summary="An operator's console URI",
        tag="uris",
        needs=CredentialPolicy.USER,
        path_type=calls.StoredOperatorPath,
        answers={200: calls.OperatorConsole},
        problems=(ExecutionNotFound, ConsoleNotFound),
    ),
)
