"""A durable write from its validated request to its response."""

import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import msgspec

from kit.http.problems import Problem
from kit.http.routing import Header, Response, RouteOptions
from kit.http.validation import parse_body
from sidecar import problems
from sidecar.api.services import (
    REPLAYABLE_CALL,
    NeedsFullRequest,
    ReplayableCall,
    Request,
    preferred_wait_s,
    services,
)
from sidecar.spool.bindings import Binding
from sidecar.spool.entry import NewEntry
from sidecar.wire import v1

Body = TypeVar("Body")
Draft = TypeVar("Draft")
Result = TypeVar("Result")

_PREFER = Header("wait=N: return 200 once central has committed, within N seconds.")
SPOOL_PROBLEMS = (problems.SpoolFull, problems.SpoolUnavailable, problems.SpoolVolumeFull)


def durable_write(*refusals: type[Problem]) -> RouteOptions:
    """The options of a durable write's route; `refusals` are the call's own problems."""
    return {
        "statuses": (202, 200),
        "problems": (*SPOOL_PROBLEMS, *refusals),
        "headers": {"Prefer": _PREFER},
    }


async def submit_durable(
    request: Request[Any, Any, Body],
    execution_id: int,
    build: Callable[[Draft, Binding, int], NewEntry],
    *,
    validate: Callable[[Body], Draft] = lambda body: cast("Any", body),
    render: Callable[[v1.WriteAnswer], Result] = lambda write: cast("Any", write),
) -> Response[Result]:
    """Makes the write durable, and registers how to replay the call with another body.

    `validate` checks what needs no binding, before central may be called; `build` makes the
    entry of its result for the execution's binding and user. Both raise `Problem`.
    """
    # `replay` is kept for long: it holds nothing of this request, whose body and connection
    # are large.
    own, caller, method = services(request), request.caller, request.http.method
    wait_s = preferred_wait_s(request.http)
    decoder = _decoder(cast("Hashable", type(request.body)))

    async def submit(new: NewEntry) -> Response[Result]:
        status, write = await own.writes.submit(new, wait_s)
        return Response(render(write), status)

    async def replay(raw_body: bytes) -> Response[Result]:
        cached_permit = own.writes.cached_permit(execution_id, caller)
        if cached_permit is None:
            raise NeedsFullRequest  # central has to authorize, for the request that comes now
        binding, grant = cached_permit
        with own.limits.call_slot(grant.user_id, method):
            draft = validate(parse_body(raw_body, decoder))
            return await submit(build(draft, binding, grant.user_id))

    draft = validate(request.body)
    binding, grant = await own.writes.authorize(execution_id, caller)
    response = await submit(build(draft, binding, grant.user_id))
    request.http[REPLAYABLE_CALL] = ReplayableCall(replay, binding, grant.user_id)
    return response


@functools.cache
def _decoder(kind: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind)
