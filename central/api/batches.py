"""`POST /v1/batches`: a sidecar delivers the writes of its computing unit."""

from aiohttp import web

from central.auth.authenticator import AuthenticatedRoute, Source
from central.auth_settings import LimitSettings
from central.problems import BatchOutOfStep, WireVersionNotSupported
from central.store.batches import Batches
from central.wire.entries import (
    MAX_BODY_BYTES,
    WIRE_VERSION,
    BatchRequest,
    BatchResponse,
    decode_batch,
    digest_of,
)
from kit.http.problems import BodyTooLarge, invalid_field
from kit.http.routing import REQUEST_ID, Response, RouteTable, TypedRequest

BATCHES: web.AppKey[Batches] = web.AppKey("batches", Batches)
LIMITS: web.AppKey[LimitSettings] = web.AppKey("limits", LimitSettings)

# During a rolling upgrade the next call is likely to reach a replica that speaks the version.
OTHER_VERSION_RETRY_AFTER_S = 5.0

routes = RouteTable(AuthenticatedRoute, tag="writes")


@routes.post(
    "/v1/batches",
    decode=decode_batch,
    max_body_bytes=MAX_BODY_BYTES,
    problems=(BodyTooLarge, BatchOutOfStep, WireVersionNotSupported),
)
async def post_batch(
    request: TypedRequest[Source, None, None, BatchRequest],
) -> Response[BatchResponse]:
    """Apply a batch of writes, exactly once.

    Returns the outcome of each entry. A fault of the call as a whole applies nothing. A batch that
    `withdraws` another gets the other's outcomes if that was applied, else none.
    """
    batch, source = request.body, request.caller
    if batch.wire != WIRE_VERSION:
        raise WireVersionNotSupported(
            f"wire: this replica speaks {WIRE_VERSION}, got {batch.wire}",
            retry_after_s=OTHER_VERSION_RETRY_AFTER_S,
        )
    max_entries = request.app[LIMITS].batch_entries
    if max_entries and len(batch.entries) > max_entries:
        raise BodyTooLarge(
            f"entries: a batch may have at most {max_entries}, got {len(batch.entries)}"
        )
    if digest_of(batch.entries) != batch.digest:
        raise invalid_field("digest", "SHA-256 over the entries as they stand in the body")
    if batch.withdraws is not None and batch.entries:
        raise invalid_field("entries", "none, as the batch withdraws another")
    unit_id = source.workload.enforced_unit_id
    request_id = request.http[REQUEST_ID]
    return Response(await request.app[BATCHES].apply(source.source_id, batch, unit_id, request_id))
