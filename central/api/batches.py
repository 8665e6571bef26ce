"""`POST /v1/batches`: a sidecar delivers what its computing unit wrote."""

from typing import Any

from aiohttp import web

from central.auth.authenticator import AuthenticatedRoute, CredentialPolicy, Source
from central.auth_settings import LimitSettings
from central.problems import BatchOutOfStep, WireVersionNotSupported
from central.store.batches import Batches
from central.wire.entries import (
    MAX_BODY_BYTES,
    WIRE_VERSION,
    BatchAnswer,
    BatchRequest,
    decode_batch,
    digest_of,
)
from kit.http.problems import BodyTooLarge, invalid_field
from kit.http.routing import Answer, Call

BATCHES: web.AppKey[Batches] = web.AppKey("batches", Batches)
LIMITS: web.AppKey[LimitSettings] = web.AppKey("limits", LimitSettings)

# While replicas are being replaced, the next call is likely to meet one that does speak it.
OTHER_VERSION_RETRY_AFTER_S = 5.0


async def post_batch(call: Call[Source, Any, Any, BatchRequest]) -> Answer:
    """The outcome of each entry. Whatever is wrong with the call as a whole applies nothing."""
    batch = call.body
    if batch.wire != WIRE_VERSION:
        raise WireVersionNotSupported(
            f"wire: this replica speaks {WIRE_VERSION}, got {batch.wire}",
            retry_after_s=OTHER_VERSION_RETRY_AFTER_S,
        )
    most = call.request.app[LIMITS].batch_entries
    if most and len(batch.entries) > most:
        raise BodyTooLarge(f"entries: a batch may have at most {most}, got {len(batch.entries)}")
    if digest_of(batch.entries) != batch.digest:
        raise invalid_field("digest", "SHA-256 over the entries as they stand in the body")
    source = call.caller
    answer = await call.request.app[BATCHES].apply(
        source.source_id, batch, source.workload.enforced_unit_id
    )
    return Answer(answer)


ROUTES = [
    AuthenticatedRoute(
        method="POST",
        path="/v1/batches",
        handler=post_batch,
        summary="Apply a batch of writes, exactly once",
        tag="writes",
        needs=CredentialPolicy.SOURCE,
        body_type=BatchRequest,
        decode=decode_batch,
        max_body_bytes=MAX_BODY_BYTES,
        answers={200: BatchAnswer},
        problems=(BodyTooLarge, BatchOutOfStep, WireVersionNotSupported),
    )
]
