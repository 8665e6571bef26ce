"""What handlers work with, and how they reach it."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from kit.http.problems import invalid_field
from kit.http.routing import REQUEST_ID, Answer, Header, Route
from sidecar.boots import Boots
from sidecar.cache.invalidation import Validity
from sidecar.cache.read_through import ReadResult
from sidecar.forwarded import ForwardedCalls
from sidecar.reads import Reads
from sidecar.upstream.client import CallContext
from sidecar.user_limits import UserLimits
from sidecar.wire.v1 import WAIT_MAX_S
from sidecar.writes import Writes

TOKEN: web.RequestKey[str] = web.RequestKey("token", str)
"""The caller's bearer token, as the local guard found it."""

_PREFER_WAIT = re.compile(
    r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:;[^,]*)?(?=,|$)", re.IGNORECASE
)
IDEMPOTENCY_KEY_MAX_LENGTH = 255
IDEMPOTENCY_HEADER = {
    "Idempotency-Key": Header(
        "A repeat with this key gets the first answer, for 24 h.",
        {"type": "string", "pattern": "^[ -~]+$", "maxLength": IDEMPOTENCY_KEY_MAX_LENGTH},
    )
}
"""The header of calls that honour a key."""


@dataclass(frozen=True, slots=True)
class Services:
    reads: Reads
    writes: Writes
    forwarded: ForwardedCalls
    limits: UserLimits
    boots: Boots


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


@dataclass(frozen=True, slots=True)
class CacheableResponse:
    """An answer that may be given again, and the label that counts it."""

    validity: Validity
    label: str


CACHEABLE_RESPONSE: web.RequestKey[CacheableResponse] = web.RequestKey(
    "repeatable", CacheableResponse
)


@dataclass(frozen=True, slots=True)
class ReplayableCall:
    """A call that was made, as it goes on after its head: with another body, it is made again.

    `replay` raises what the call raises, and `NeedsFullRequest`.
    """

    replay: Callable[[bytes], Awaitable[Answer]]


REPLAYABLE_CALL: web.RequestKey[ReplayableCall] = web.RequestKey("resumable", ReplayableCall)


class NeedsFullRequest(Exception):
    """The call has to be made from its beginning. Nothing of it has been done."""


async def call_context(request: web.Request, route: Route, raw_body: bytes) -> CallContext:
    """Who calls: the token that the guard has found, and the trace the call belongs to."""
    return CallContext(
        request[TOKEN],
        request[REQUEST_ID],
        request.headers.get("traceparent"),
        request.headers.get("tracestate"),
    )


def services(request: web.Request) -> Services:
    return request.app[SERVICES]


def cached_response(request: web.Request, body: Any, seen: ReadResult[Any]) -> Answer:
    """The answer to a read; the front door may give it again for as long as it is valid."""
    if seen.validity is not None:
        request[CACHEABLE_RESPONSE] = CacheableResponse(seen.validity, seen.label)
    return Answer(body, headers=seen.headers())


def preferred_wait_s(request: web.Request) -> float | None:
    """The N of `Prefer: wait=N` (RFC 7240), at most a minute; None without the preference."""
    match = _PREFER_WAIT.search(",".join(request.headers.getall("Prefer", [])))
    return min(float(match.group(1)), WAIT_MAX_S) if match else None


def idempotency_key(request: web.Request) -> str | None:
    values = request.headers.getall("Idempotency-Key", [])
    if not values:
        return None
    key = values[0]
    printable = key.isascii() and key.isprintable()
    if len(values) > 1 or not (printable and 0 < len(key) <= IDEMPOTENCY_KEY_MAX_LENGTH):
        raise invalid_field(
            "Idempotency-Key", f"one, of 1 to {IDEMPOTENCY_KEY_MAX_LENGTH} printable characters"
        )
    return key
