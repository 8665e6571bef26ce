"""Calls that take effect once per idempotency key."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from central.auth.authenticator import Writer
from central.auth.source_assertions import digest
from central.store.database import Transaction
from central.store.idempotency import IdempotencyKeys, KeyedCall, StoredResponse
from kit.http.routing import Response, TypedRequest

IDEMPOTENCY_KEYS: web.AppKey[IdempotencyKeys] = web.AppKey("idempotency_keys", IdempotencyKeys)

REPLAYED = {"Idempotent-Replayed": "true"}
"""Header of a repeat's response: what it says was true when the first call was made."""

Result = TypeVar("Result", bound=msgspec.Struct)


async def run_once(
    request: TypedRequest[Writer, Any, Any, Any],
    work: Callable[[Transaction], Awaitable[Result]],
    status: int = 200,
) -> Response[Result]:
    """The result of `work`; a repeat of the key returns the stored response and runs nothing.

    The source is part of the key's scope: a sidecar must not get the response that another
    one's call was given, for what it names is bound to that one.
    """
    writer = request.caller

    async def work_and_encode(transaction: Transaction) -> StoredResponse:
        return StoredResponse(status, msgspec.json.encode(await work(transaction)))

    keyed = KeyedCall(
        writer.user.user_id,
        writer.source_id,
        f"{request.http.method} {request.http.path} {writer.source_id}",
        writer.idempotency_key,
        digest(request.raw_body),
    )
    stored = await request.app[IDEMPOTENCY_KEYS].run_once(keyed, work_and_encode)
    return Response(stored.body, stored.status, REPLAYED if stored.is_replayed else {})
