"""The services that handlers call, and what handlers read from and attach to a request."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NewType, TypeAlias, TypeVar

from aiohttp import web

from kit.http.body_reader import RequestBody
from kit.http.problems import Problem
from kit.http.routing import (
    REQUEST_ID,
    Header,
    Response,
    Route,
    RouteOptions,
    RouteTable,
    TypedRequest,
)
from kit.http.validation import IDEMPOTENCY_KEY, IDEMPOTENCY_KEY_SCHEMA
from sidecar import problems
from sidecar.cache.invalidation import Validity
from sidecar.cache.read_through import ReadResult
from sidecar.forwarded import ForwardedCalls
from sidecar.reads import Reads
from sidecar.spool.bindings import Binding
from sidecar.upstream.client import CallContext
from sidecar.user_limits import UserLimits
from sidecar.wire.v1 import WAIT_MAX_S
from sidecar.writes import Writes

TOKEN: web.RequestKey[str] = web.RequestKey("token", str)
"""The caller's bearer token, set by the local guard."""
USER_ID: web.RequestKey[int | None] = web.RequestKey("user_id", int)
"""Whose limits the call counts against; None if central has never identified the token."""

_PREFER_WAIT = re.compile(
    r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:;[^,]*)?(?=,|$)", re.IGNORECASE
)
_ID = re.compile(r"[0-9]{1,10}", re.ASCII)
IDEMPOTENCY_HEADER = {
    IDEMPOTENCY_KEY: Header(
        "A repeat with the same key gets the first response, for 24 h.", IDEMPOTENCY_KEY_SCHEMA
    )
}
NO_STORE = MappingProxyType({"Cache-Control": "no-store"})
"""Of a response with a token in it."""
FORWARDED_WRITE: RouteOptions = {
    "problems": (problems.DeliveryTimeout,),
    "headers": IDEMPOTENCY_HEADER,
}
"""Options of a write that central commits while the caller waits."""

Path = TypeVar("Path")
Query = TypeVar("Query")
Body = TypeVar("Body")
Result = TypeVar("Result")

RunCaller = NewType("RunCaller", CallContext)
"""The caller of a route about one execution, which the path names: its run token will do."""

Request: TypeAlias = TypedRequest[CallContext, Path, Query, Body]
RunRequest: TypeAlias = TypedRequest[RunCaller, Path, Query, Body]

RUN_SCHEME = MappingProxyType(
    {
        "run": {
            "type": "http",
            "scheme": "bearer",
            "description": "A run token, from the response to the create of this execution.",
        }
    }
)


@dataclass(frozen=True, kw_only=True)
class LocalRoute(Route):
    """A route whose handler's caller type says whether a run token is accepted."""

    def __post_init__(self) -> None:
        if self.accepts_run_tokens:
            object.__setattr__(self, "security", (("user",), ("run",)))

    @property
    def accepts_run_tokens(self) -> bool:
        return self.caller_type is RunCaller


def route_table(tag: str, *refusals: type[Problem]) -> RouteTable[LocalRoute]:
    """A table of routes with the problems of every local call, and with `refusals`."""
    of_every_call = (
        problems.TokenMissing,
        problems.TokenInvalid,
        problems.RunTokenScope,
        problems.NotLocal,
        problems.CentralUnavailable,
    )
    return RouteTable(LocalRoute, tag=tag, problems=(*of_every_call, *refusals))


@dataclass(frozen=True, slots=True)
class Services:
    reads: Reads
    writes: Writes
    forwarded: ForwardedCalls
    limits: UserLimits


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


@dataclass(frozen=True, slots=True)
class CacheableResponse:
    """Until when a response is valid, and the metric's label of what it holds."""

    validity: Validity
    label: str


CACHEABLE_RESPONSE: web.RequestKey[CacheableResponse] = web.RequestKey(
    "cacheable_response", CacheableResponse
)


@dataclass(frozen=True, slots=True)
class ReplayableCall:
    """A request whose headers were already validated: `replay` makes the call with a new body.

    It raises the call's problems, and `NeedsFullRequest`. Execution, unit and user are for the log.
    """

    replay: Callable[[bytes], Awaitable[Response[Any]]]
    binding: Binding
    user_id: int


REPLAYABLE_CALL: web.RequestKey[ReplayableCall] = web.RequestKey("replayable_call", ReplayableCall)


class NeedsFullRequest(Exception):
    """The call has to be made from its beginning; it has had no effect."""


async def call_context(request: web.Request, route: Route, body: RequestBody) -> CallContext:
    """The caller: the token that the guard has set, and the trace of the call.

    Raises `TokenInvalid` or `RunTokenScope` for a run token that this call does not take. The body
    is charged to the token's user. All tokens that central has not vouched for share one part of
    the budget, because they cost nothing to invent.
    """
    run_id = request.app[SERVICES].writes.run_of(request[TOKEN])
    if run_id is not None:
        _check_scope(request, route, run_id)
    await body.read(request[USER_ID])
    return CallContext(
        request[TOKEN],
        request[REQUEST_ID],
        request.headers.get("traceparent"),
        request.headers.get("tracestate"),
        request[USER_ID],
        run_id,
    )


def _check_scope(request: web.Request, route: Route, run_id: int) -> None:
    """No by default: only for a route that says so, and only for the run's own execution."""
    named = request.match_info.get("execution_id", request.match_info.get("eid", str(run_id)))
    accepts = isinstance(route, LocalRoute) and route.accepts_run_tokens
    if not accepts or named != str(run_id):
        raise problems.RunTokenScope(f"the token is good for calls about execution {run_id} only")


def describe_caller(request: web.Request) -> dict[str, Any]:
    """The ids of a failed call for the log: its user, and the computing unit of this sidecar."""
    execution_id = request.match_info.get("execution_id", "")
    writes = request.app[SERVICES].writes
    found = {
        "user_id": request.get(USER_ID),
        "computing_unit_id": writes.computing_unit_id(
            int(execution_id) if _ID.fullmatch(execution_id) else None
        ),
    }
    return {name: value for name, value in found.items() if value is not None}


def services(request: Request[Any, Any, Any]) -> Services:
    return request.app[SERVICES]


def cached_response(
    request: Request[Any, Any, Any], body: Result | dict[str, Any], read: ReadResult[Any]
) -> Response[Result]:
    """The response to a read; the response cache may send it again for as long as it is valid."""
    if read.validity is not None:
        request.http[CACHEABLE_RESPONSE] = CacheableResponse(read.validity, read.label)
    return Response(body, headers=read.headers())


def preferred_wait_s(request: web.Request) -> float | None:
    """The N of `Prefer: wait=N` (RFC 7240), at most a minute; None without the preference."""
    match = _PREFER_WAIT.search(",".join(request.headers.getall("Prefer", [])))
    return min(float(match.group(1)), WAIT_MAX_S) if match else None
