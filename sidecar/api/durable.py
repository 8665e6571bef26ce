"""A durable write, from its request to its answer: the part that every such call has in common."""

import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias, cast

import msgspec

from kit.http.routing import Answer, Call
from kit.http.validation import parse_body
from sidecar.api.services import (
    REPLAYABLE_CALL,
    NeedsFullRequest,
    ReplayableCall,
    preferred_wait_s,
    services,
)
from sidecar.spool.bindings import Binding
from sidecar.spool.entry import NewEntry
from sidecar.upstream.client import CallContext
from sidecar.wire import v1

EntryFactory: TypeAlias = Callable[[Binding, int], NewEntry]
"""The write, once it is known to what and for which user it is."""
BodyValidator: TypeAlias = Callable[[Any], EntryFactory]
"""Checks of the body what needs no binding. Raises `Problem`."""


async def durable(
    call: Call[CallContext, Any, Any, Any],
    execution_id: int,
    prepare: BodyValidator,
    answer_of: Callable[[v1.WriteAnswer], Any] = lambda answer: answer,
) -> Answer:
    """Makes the write durable, and its like of other bodies for whoever has the request's head."""
    # `replay` is kept for long: it holds none of the request, whose body and connection are large.
    own, caller, method = services(call.request), call.caller, call.request.method
    wait_s = preferred_wait_s(call.request)
    decoder = _decoder(cast("Hashable", type(call.body)))

    async def submit(new: NewEntry) -> Answer:
        status, answer = await own.writes.submit(new, wait_s)
        return Answer(answer_of(answer), status)

    async def replay(raw_body: bytes) -> Answer:
        cached_permit = own.writes.cached_permit(execution_id, caller)
        if cached_permit is None:
            raise NeedsFullRequest  # central has to be asked, for the request that comes now
        with own.limits.call(cached_permit[1].user_id, method):
            entry_of = prepare(parse_body(raw_body, decoder))
            return await submit(entry_of(cached_permit[0], cached_permit[1].user_id))

    entry_of = prepare(call.body)
    binding, grant = await own.writes.authorize(execution_id, caller)
    answer = await submit(entry_of(binding, grant.user_id))
    call.request[REPLAYABLE_CALL] = ReplayableCall(replay)
    return answer


@functools.cache
def _decoder(kind: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind)
