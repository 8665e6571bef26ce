"""Reads of the registry of URIs."""

from aiohttp import web

from central.auth.authenticator import AuthenticatedRoute, RunReader
from central.problems import ConsoleNotFound, ExecutionNotFound, ResultUriNotFound
from central.store.uris import Uris
from central.wire import calls
from kit.http.routing import Response, RouteTable, TypedRequest

URIS: web.AppKey[Uris] = web.AppKey("uris", Uris)

_EXECUTION = "/v1/executions/{execution_id}"

routes = RouteTable(AuthenticatedRoute, tag="uris", problems=(ExecutionNotFound,))


@routes.get(_EXECUTION + "/uris")
async def fetch_uris(
    request: TypedRequest[RunReader, calls.ExecutionPath, None, None],
) -> Response[calls.ExecutionUris]:
    """All URIs of an execution, with sizes."""
    user, uris = request.caller.user, request.app[URIS]
    return Response(await uris.read_all(user, request.path.execution_id))


@routes.get(_EXECUTION + "/result-uri", problems=(ResultUriNotFound,))
async def fetch_result_uri(
    request: TypedRequest[RunReader, calls.ExecutionPath, calls.ResultUriQuery, None],
) -> Response[calls.ResultUri]:
    """The result URI of a logical output port."""
    user, uris = request.caller.user, request.app[URIS]
    return Response(await uris.result_uri(user, request.path.execution_id, request.query))


@routes.get(_EXECUTION + "/operators/{operator_id}/console", problems=(ConsoleNotFound,))
async def fetch_console(
    request: TypedRequest[RunReader, calls.StoredOperatorPath, None, None],
) -> Response[calls.OperatorConsole]:
    """An operator's console URI."""
    user, uris, path = request.caller.user, request.app[URIS], request.path
    return Response(await uris.console(user, path.execution_id, path.operator_id))
