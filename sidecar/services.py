"""What handlers work with, and how they reach it."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sidecar.boots import Boots
from sidecar.cache.marks import Validity
from sidecar.cache.read_through import Seen
from sidecar.guard import TOKEN
from sidecar.kit.problem import invalid_field
from sidecar.kit.routing import REQUEST_ID, Answer, Header, Route
from sidecar.limits import LocalLimits
from sidecar.reads import Reads
from sidecar.sync_calls import SyncCalls
from sidecar.upstream.client import CallContext
from sidecar.wire import WAIT_MAX_S
from sidecar.writes import Writes

_PREFER_WAIT = re.compile(
    r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:;[^,]*)?(?=,|$)", re.IGNORECASE
)
IDEMPOTENCY_KEY_MAX_LENGTH = 255
KEYED = {
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
    sync_calls: SyncCalls
    limits: LocalLimits
    boots: Boots


SERVICES: web.AppKey[Services] = web.AppKey("services", Services)


@dataclass(frozen=True, slots=True)
class Repeatable:
    """An answer that may be given again, and the label that counts it."""

    validity: Validity
    resource: str


REPEATABLE: web.RequestKey[Repeatable] = web.RequestKey("repeatable", Repeatable)


@dataclass(frozen=True, slots=True)
class Resumable:
    """A call that was made, as it goes on after its head: with another body, it is made again.

    `again` raises what the call raises, and `NotResumable`.
    """

    again: Callable[[bytes], Awaitable[Answer]]


RESUMABLE: web.RequestKey[Resumable] = web.RequestKey("resumable", Resumable)


class NotResumable(Exception):
    """The call has to be made from its beginning. Nothing of it has been done."""


async def admit(request: web.Request, route: Route, raw_body: bytes) -> CallContext:
    """Who calls: the token that the guard has found, and the trace the call belongs to."""
    return CallContext(
        request[TOKEN],
        request[REQUEST_ID],
        request.headers.get("traceparent"),
        request.headers.get("tracestate"),
    )


def services(request: web.Request) -> Services:
    return request.app[SERVICES]


def seen_answer(request: web.Request, body: Any, seen: Seen[Any]) -> Answer:
    """The answer to a read; the front door may give it again for as long as it is valid."""
    if seen.validity is not None:
        request[REPEATABLE] = Repeatable(seen.validity, seen.resource)
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
