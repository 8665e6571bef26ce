"""Answers of the application that may be given again, by the head of their request."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import hdrs, web
from prometheus_client import Counter

from kit.http.routing import ROUTE
from sidecar.api.services import CACHEABLE_RESPONSE
from sidecar.cache.invalidation import Validity
from sidecar.metrics import Metrics
from sidecar.server.byte_bounded_fifo import ByteBoundedFifo
from sidecar.server.request_key import HEAD_MAX_BYTES, Stamp, is_cacheable, normalize_head

ENTRY_OVERHEAD_BYTES = 1500
"""What a kept answer costs beside its texts: the objects, their slots, the dict's entry."""
MAX_PIPELINED_RESPONSE_BYTES = 256 * 1024
"""Of answers to one piece of requests. A piece has room for hundreds of them, and is answered
before anybody can see that its caller does not read: aiohttp sends one answer after the other."""
TOUCH_PERIOD_S = 1.0
"""How often a value in use is told so, lest it be evicted as forgotten."""


@dataclass(slots=True)
class _Known:
    """An answer: its head without request id and date, and its body."""

    validity: Validity
    head: bytes
    body: bytes
    requests: Counter
    reads: Counter
    touched_at: float


class ResponseCache:
    """Bounded by bytes; what was kept first leaves first, and comes back if it is in use."""

    def __init__(
        self,
        max_bytes: int,
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._metrics = metrics
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._known: ByteBoundedFifo[_Known] = ByteBoundedFifo(max_bytes)
        self._stamp = Stamp(wall_clock)

    @property
    def size_bytes(self) -> int:
        return self._known.size_bytes

    def answer(self, data: bytes) -> bytes | None:
        """The answers to the requests in `data`, if it is nothing but known ones; else None.

        All or none: what aiohttp says to a malformed request depends on what came in the same
        piece, so it gets such a piece whole.
        """
        found = self._find(data)
        if found is not None:
            return self._given(*found)
        all_found, start, size_bytes = [], 0, 0
        while start < len(data):
            end = data.find(b"\r\n\r\n", start) + 4
            if end < 4 or end - start == len(data):
                return None
            found = self._find(data[start:end])
            if found is None:
                return None
            size_bytes += len(found[0].head) + len(found[0].body)
            if size_bytes > MAX_PIPELINED_RESPONSE_BYTES:
                return None
            all_found.append(found)
            start = end
        return b"".join([self._given(*found) for found in all_found])

    def _find(self, head: bytes) -> tuple[_Known, bytes] | None:
        """The answer to a request that is all of `head`, and the request's own id or nothing."""
        request_id = b""
        known = self._known.get(head)
        if known is None:
            # The end comes first: what is cut out may stand behind it, and would be lost.
            if len(head) > HEAD_MAX_BYTES or head.find(b"\r\n\r\n") != len(head) - 4:
                return None
            plain, request_id = normalize_head(head)
            known = self._known.get(plain) if plain is not None else None
            if plain is None or known is None:
                return None
            head = plain
        if not known.validity.is_valid(self._monotonic(), self._wall_clock()):
            self._known.drop(head)
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
        stamp = self._stamp(self._stamp.request_id(request_id))
        return known.head + stamp + known.body

    def keep(self, head: bytes, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Remembers the answer just given to the request whose bytes were `head`, if it may be."""
        repeatable = request.get(CACHEABLE_RESPONSE)
        if repeatable is None or not isinstance(response, web.Response):
            return
        if not (
            response.status == 200
            and isinstance(response.body, bytes)
            and hdrs.CONTENT_LENGTH not in request.headers
            and is_cacheable(head, request, response)
        ):
            return
        plain, _ = normalize_head(head)
        if plain is None:
            return
        head = plain
        lines = [b"HTTP/1.1 200 OK\r\n"] + [
            f"{name}: {value}\r\n".encode()
            for name, value in response.headers.items()
            if name not in {"X-Request-Id", hdrs.DATE}
        ]
        answer_head = b"".join(lines)
        known = _Known(
            repeatable.validity,
            answer_head,
            response.body,
            self._metrics.http_requests.labels(request[ROUTE], request.method, 200),
            self._metrics.cache_requests.labels(repeatable.label, "hit"),
            self._monotonic(),
        )
        texts_bytes = len(head) + len(answer_head) + len(response.body)
        self._known.put(head, known, ENTRY_OVERHEAD_BYTES + texts_bytes)
