"""What became of writes: the caller's own, and the wait until all are delivered."""

from kit.http.routing import Answer, Call, NoParameters, Route
from sidecar import problems
from sidecar.api.executions import READ_PROBLEMS
from sidecar.api.services import services
from sidecar.upstream.client import CallContext
from sidecar.wire import v1

SPOOL_PROBLEMS = (*READ_PROBLEMS, problems.SpoolUnavailable)


async def fetch_write(call: Call[CallContext, v1.WritePath, NoParameters, None]) -> Answer:
    return Answer(await services(call.request).writes.find(call.path.write_id, call.caller))


async def list_writes(
    call: Call[CallContext, NoParameters, v1.WritesQuery, None],
) -> Answer:
    return Answer(await services(call.request).writes.list_writes(call.query, call.caller))


async def flush_writes(
    call: Call[CallContext, NoParameters, v1.FlushQuery, None],
) -> Answer:
    return Answer(await services(call.request).writes.flush(call.query.timeout, call.caller))


ROUTES = (
    Route(
        method="GET",
        path="/v1/writes/{write_id}",
        handler=fetch_write,
        summary="Where one of your writes stands",
        tag="writes",
        path_type=v1.WritePath,
        answers={200: v1.WriteAnswer},
        problems=(*SPOOL_PROBLEMS, problems.WriteNotFound),
    ),
    Route(
        method="GET",
        path="/v1/writes",
        handler=list_writes,
        summary="Your writes, newest first; at least the last 10,000 settled are kept",
        tag="writes",
        query_type=v1.WritesQuery,
        answers={200: v1.Writes},
        problems=SPOOL_PROBLEMS,
    ),
    Route(
        method="POST",
        path="/v1/flush",
        handler=flush_writes,
        summary="Wait until every write is delivered",
        tag="writes",
        query_type=v1.FlushQuery,
        answers={200: v1.FlushAnswer},
        problems=(*SPOOL_PROBLEMS, problems.DeliveryTimeout),
    ),
)
