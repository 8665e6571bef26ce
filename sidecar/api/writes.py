"""The states of the caller's own writes, and the wait until all writes are delivered."""

from kit.http.routing import Response
from sidecar import problems
from sidecar.api.services import Request, RunRequest, route_table, services
from sidecar.wire import v1

routes = route_table("writes", problems.SpoolUnavailable)


@routes.get("/v1/writes/{write_id}", problems=(problems.WriteNotFound,))
async def fetch_write(
    request: RunRequest[v1.WritePath, None, None],
) -> Response[v1.WriteAnswer]:
    """Where one of your writes stands."""
    return Response(await services(request).writes.find(request.path.write_id, request.caller))


@routes.get("/v1/writes")
async def list_writes(request: Request[None, v1.WritesQuery, None]) -> Response[v1.Writes]:
    """Your writes, newest first; at least the last 10,000 settled are kept."""
    return Response(await services(request).writes.list_writes(request.query, request.caller))


@routes.post("/v1/flush", problems=(problems.DeliveryTimeout,))
async def flush_writes(request: Request[None, v1.FlushQuery, None]) -> Response[v1.FlushAnswer]:
    """Wait until every write is delivered."""
    return Response(await services(request).writes.flush(request.query.timeout, request.caller))
