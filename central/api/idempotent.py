"""Calls that are answered once per idempotency key."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from central.auth.authenticator import Writer
from central.auth.source_assertions import digest
from central.store.database import Transaction
from central.store.idempotency import IdempotencyKeys, KeyedCall, StoredAnswer
from kit.http.routing import Answer, Call

IDEMPOTENCY_KEYS: web.AppKey[IdempotencyKeys] = web.AppKey("idempotency_keys", IdempotencyKeys)


async def run_once(
    call: Call[Writer, Any, Any, Any],
    status: int,
    work: Callable[[Transaction], Awaitable[msgspec.Struct]],
) -> Answer:
    """What `work` returns, with `status`; a repeat gets the first answer and works nothing.

    The source is part of the route's name: another sidecar must not be answered with what is
    bound elsewhere.
    """
    writer = call.caller

    async def work_and_encode(transaction: Transaction) -> StoredAnswer:
        return StoredAnswer(status, msgspec.json.encode(await work(transaction)))

    keyed = KeyedCall(
        writer.user.user_id,
        f"{call.request.method} {call.request.path} {writer.source_id}",
        writer.idempotency_key,
        digest(call.raw_body),
    )
    answer = await call.request.app[IDEMPOTENCY_KEYS].once(keyed, work_and_encode)
    return Answer(answer.body, answer.status)
