"""`POST /v1/successions`: a sidecar replaces its key."""

from aiohttp import web

from central.auth.authenticator import AuthenticatedRoute, Source
from central.auth.source_assertions import AssertionVerifier
from central.problems import AssertionInvalid, SourceNotBound, SuccessorInUse
from central.store.sources import Sources
from central.wire import calls
from kit.http.problems import invalid_field
from kit.http.routing import Response, RouteTable, TypedRequest

ASSERTIONS: web.AppKey[AssertionVerifier] = web.AppKey("assertions", AssertionVerifier)
SOURCES: web.AppKey[Sources] = web.AppKey("sources", Sources)

routes = RouteTable(AuthenticatedRoute, tag="sources")


@routes.post("/v1/successions", problems=(SourceNotBound, SuccessorInUse))
async def succeed_source(
    request: TypedRequest[Source, None, None, calls.SuccessionRequest],
) -> Response[calls.Succession]:
    """Replace the calling sidecar's key, which is refused from then on.

    The new key takes bindings, leases, boots, cursors and stored responses. A repeat by the old key
    gets the same response.
    """
    # No idempotency key: the two keys are one.
    source = request.caller
    try:
        successor_id = request.app[ASSERTIONS].verify_succession(
            request.body.statement, source.source_id
        )
    except AssertionInvalid as problem:
        raise invalid_field("statement", problem.detail) from problem
    await request.app[SOURCES].succeed(source.source_id, successor_id, source.workload)
    return Response(calls.Succession(source.source_id, successor_id))
