"""Answers of the application that may be given again, by the head of their request."""

import email.utils
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import HttpVersion11, hdrs, web
from prometheus_client import Counter

from sidecar.cache.marks import Validity
from sidecar.kit.routing import ROUTE
from sidecar.metrics import Metrics
from sidecar.services import REPEATABLE

HEAD_MAX_BYTES = 8190
"""aiohttp's own limit for one header: no head this short meets a limit of its parser."""
ENTRY_OVERHEAD_BYTES = 1500
"""What a kept answer costs beside its texts: the objects, their slots, the dict's entry."""
TOUCH_PERIOD_S = 1.0
"""How often a value in use is told so, lest it be evicted as forgotten."""

# What may differ between two requests for the same thing and changes nothing in the answer:
# trace context goes to central only, and the request id is copied. A value with anything
# unprintable is left in, and of a folded one the fold, so that neither is ever a known head.
_VARYING = re.compile(
    rb"\r\n(?:(?i:traceparent|tracestate):[ \t]*[!-~][ -~]*"
    rb"|(?i:x-request-id):[ \t]*([A-Za-z0-9._:\-]{1,128})[ \t]*)(?=\r\n)"
)
_VARYING_MAX = 3
_NOT_KEPT = (hdrs.UPGRADE, hdrs.EXPECT, hdrs.TRANSFER_ENCODING, hdrs.CONTENT_LENGTH)


@dataclass(slots=True)
class _Known:
    """An answer: its head without request id and date, and its body."""

    validity: Validity
    head: bytes
    body: bytes
    requests: Counter
    reads: Counter
    size_bytes: int
    touched_at: float


class KnownAnswers:
    """Bounded by bytes; what was kept first leaves first, and comes back if it is in use."""

    def __init__(
        self,
        max_bytes: int,
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_bytes = max_bytes
        self._metrics = metrics
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._known: dict[bytes, _Known] = {}
        self._id_prefix = secrets.token_hex(4).encode()
        self._id_count = 0
        self._date_s = -1
        self._date = b""
        self.size_bytes = 0

    def answer(self, data: bytes) -> bytes | None:
        """The answers to the requests in `data`, if it is nothing but known ones; else None.

        All or none: what aiohttp says to a malformed request depends on what came in the same
        piece, so it gets such a piece whole.
        """
        found = self._find(data)
        if found is not None:
            return self._given(*found)
        all_found, start = [], 0
        while start < len(data):
            end = data.find(b"\r\n\r\n", start) + 4
            if end < 4 or end - start == len(data):
                return None
            found = self._find(data[start:end])
            if found is None:
                return None
            all_found.append(found)
            start = end
        return b"".join([self._given(*found) for found in all_found])

    def _find(self, head: bytes) -> tuple[_Known, bytes] | None:
        """The answer to a request that is all of `head`, and the request's own id or nothing."""
        request_id = b""
        known = self._known.get(head)
        if known is None:
            if len(head) > HEAD_MAX_BYTES:
                return None
            plain, count = _VARYING.subn(b"", head)
            known = self._known.get(plain) if 0 < count <= _VARYING_MAX else None
            if known is None:
                return None
            request_id = _request_id(head)
            head = plain
        if not known.validity.holds(self._monotonic(), self._wall_clock()):
            self._drop(head)
            return None
        return known, request_id

    def _given(self, known: _Known, request_id: bytes) -> bytes:
        """The whole answer, counted as given."""
        now = self._monotonic()
        if now - known.touched_at > TOUCH_PERIOD_S:
            known.touched_at = now
            known.validity.touch()
        known.requests.inc()
        known.reads.inc()
        if not request_id:
            self._id_count += 1
            request_id = b"%s%08x" % (self._id_prefix, self._id_count)
        wall_s = int(self._wall_clock())
        if wall_s != self._date_s:
            self._date_s = wall_s
            self._date = email.utils.formatdate(wall_s, usegmt=True).encode()
        return b"%sX-Request-Id: %s\r\nDate: %s\r\n\r\n%s" % (
            known.head,
            request_id,
            self._date,
            known.body,
        )

    def keep(self, head: bytes, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Remembers the answer just given to the request whose bytes were `head`, if it may be."""
        repeatable = request.get(REPEATABLE)
        if repeatable is None or not isinstance(response, web.Response):
            return
        if not (
            response.status == 200
            and isinstance(response.body, bytes)
            and response.keep_alive
            and request.version == HttpVersion11
            and request.keep_alive
            and not any(name in request.headers for name in _NOT_KEPT)
            and len(head) <= HEAD_MAX_BYTES
        ):
            return
        head = _VARYING.sub(b"", head)
        lines = [b"HTTP/1.1 200 OK\r\n"] + [
            f"{name}: {value}\r\n".encode()
            for name, value in response.headers.items()
            if name not in {"X-Request-Id", hdrs.DATE}
        ]
        answer_head = b"".join(lines)
        self._drop(head)
        known = _Known(
            repeatable.validity,
            answer_head,
            response.body,
            self._metrics.http_requests.labels(request[ROUTE], request.method, 200),
            self._metrics.cache_requests.labels(repeatable.resource, "hit"),
            ENTRY_OVERHEAD_BYTES + len(head) + len(answer_head) + len(response.body),
            self._monotonic(),
        )
        if known.size_bytes <= self._max_bytes:
            self._known[head] = known
            self.size_bytes += known.size_bytes
        while self.size_bytes > self._max_bytes:
            self._drop(next(iter(self._known)))

    def _drop(self, head: bytes) -> None:
        known = self._known.pop(head, None)
        if known is not None:
            self.size_bytes -= known.size_bytes


def _request_id(head: bytes) -> bytes:
    """The caller's own id, the first if there are several; empty if there is none."""
    return next((match[1] for match in _VARYING.finditer(head) if match[1]), b"")
