"""A durable write, from its request to its answer: the part that every such call has in common."""

import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias, cast

import msgspec

from sidecar import wire
from sidecar.kit.fields import decode_body
from sidecar.kit.routing import Answer, Call
from sidecar.services import RESUMABLE, NotResumable, Resumable, preferred_wait_s, services
from sidecar.spool.entry import NewEntry
from sidecar.spool.permits import Binding
from sidecar.upstream.client import CallContext

EntryOf: TypeAlias = Callable[[Binding, int], NewEntry]
"""The write, once it is known to what and for which user it is."""
Prepare: TypeAlias = Callable[[Any], EntryOf]
"""Checks of the body what needs no binding. Raises `Problem`."""


async def durable(
    call: Call[CallContext, Any, Any, Any],
    execution_id: int,
    prepare: Prepare,
    answer_of: Callable[[wire.WriteAnswer], Any] = lambda answer: answer,
) -> Answer:
    """Makes the write durable, and its like of other bodies for whoever has the request's head."""
    # `again` is kept for long: it holds none of the request, whose body and connection are large.
    own, caller, method = services(call.request), call.caller, call.request.method
    wait_s = preferred_wait_s(call.request)
    decoder = _decoder(cast("Hashable", type(call.body)))

    async def submit(new: NewEntry) -> Answer:
        status, answer = await own.writes.submit(new, wait_s)
        return Answer(answer_of(answer), status)

    async def again(raw_body: bytes) -> Answer:
        permit = own.writes.permit(execution_id, caller)
        if permit is None:
            raise NotResumable  # central has to be asked, for the request that comes now
        with own.limits.call(permit[1].user_id, method):
            entry_of = prepare(decode_body(raw_body, decoder))
            return await submit(entry_of(permit[0], permit[1].user_id))

    entry_of = prepare(call.body)
    binding, grant = await own.writes.admit(execution_id, caller)
    answer = await submit(entry_of(binding, grant.user_id))
    call.request[RESUMABLE] = Resumable(again)
    return answer


@functools.cache
def _decoder(kind: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind)
