"""Whole responses of the application, by the head of their request."""

import email.utils
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from aiohttp import hdrs, web

from kit.http.metrics import Counter, Histogram
from kit.http.routing import ROUTE
from sidecar.api.services import CACHEABLE_RESPONSE
from sidecar.cache.invalidation import Validity
from sidecar.metrics import Metrics
from sidecar.server.framing import HEAD_END, is_storable, read_key

ENTRY_OVERHEAD_BYTES = 1500
"""Memory of an entry besides its texts: the objects, their slots, the dict's entry."""
MAX_PIPELINED_RESPONSE_BYTES = 256 * 1024
"""Of responses to pipelined requests that arrive together. They are written before anybody can
see that the client does not read; aiohttp writes one response at a time."""
TOUCH_PERIOD_S = 1.0
"""How often a cached value in use is touched, so that it is not evicted as unused."""

Entry = TypeVar("Entry")


class ByteBoundedFifo(Generic[Entry]):
    """Entries by request key, within `max_bytes`; the oldest is evicted first.

    An evicted entry that is in use is stored again after its next request, so order of use need
    not be tracked on the hot path.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: dict[bytes, tuple[Entry, int]] = {}
        self.size_bytes = 0

    def get(self, key: bytes) -> Entry | None:
        found = self._entries.get(key)
        return found[0] if found is not None else None

    def put(self, key: bytes, entry: Entry, size_bytes: int) -> None:
        """Replaces the key's entry. An entry above `max_bytes` is not stored."""
        self.drop(key)
        if size_bytes > self._max_bytes:
            return
        self._entries[key] = (entry, size_bytes)
        self.size_bytes += size_bytes
        while self.size_bytes > self._max_bytes:
            self.drop(next(iter(self._entries)))

    def drop(self, key: bytes) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self.size_bytes -= found[1]


class PerResponseHeaders:
    """The end of a response's head: request id, date and the empty line."""

    def __init__(self, wall_clock: Callable[[], float]) -> None:
        self._wall_clock = wall_clock
        self._id_prefix = secrets.token_hex(4).encode()
        self._id_count = 0
        self._date_s = -1
        self._date = b""

    def request_id(self, given: bytes) -> bytes:
        """The client's own id, or a new one."""
        if given:
            return given
        self._id_count += 1
        return b"%s%08x" % (self._id_prefix, self._id_count)

    def render(self, request_id: bytes) -> bytes:
        wall_s = int(self._wall_clock())
        if wall_s != self._date_s:
            self._date_s = wall_s
            self._date = email.utils.formatdate(wall_s, usegmt=True).encode()
        return b"X-Request-Id: %s\r\nDate: %s\r\n\r\n" % (request_id, self._date)


@dataclass(slots=True)
class _CachedResponse:
    """A response without its per-response headers, and the metrics of its requests."""

    validity: Validity
    head: bytes
    body: bytes
    requests: Counter
    seconds: Histogram
    reads: Counter
    touched_at: float


class ResponseCache:
    """Serves a stored response while it is valid, and counts it as the application would."""

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
        self._responses: ByteBoundedFifo[_CachedResponse] = ByteBoundedFifo(max_bytes)
        self._headers = PerResponseHeaders(wall_clock)

    @property
    def size_bytes(self) -> int:
        return self._responses.size_bytes

    def respond(self, data: bytes) -> bytes | None:
        """The responses to all requests in `data`; None unless every one is cached.

        All or none: aiohttp's response to a malformed request depends on what arrived with it, so
        it gets such data whole.
        """
        arrived_at = self._monotonic()
        found = self._find(data, arrived_at)
        if found is not None:
            return self._render(*found, arrived_at)
        all_found, start, size_bytes = [], 0, 0
        while start < len(data):
            end = data.find(HEAD_END, start) + len(HEAD_END)
            if end < len(HEAD_END) or end - start == len(data):
                return None
            found = self._find(data[start:end], arrived_at)
            if found is None:
                return None
            size_bytes += len(found[0].head) + len(found[0].body)
            if size_bytes > MAX_PIPELINED_RESPONSE_BYTES:
                return None
            all_found.append(found)
            start = end
        return b"".join([self._render(*found, arrived_at) for found in all_found])

    def _find(self, head: bytes, arrived_at: float) -> tuple[_CachedResponse, bytes] | None:
        """The valid response to the request `head`, and the request's own id or b""."""
        request_id, key = b"", head
        cached = self._responses.get(head)
        if cached is None:
            plain, request_id = read_key(head)
            cached = self._responses.get(plain) if plain is not None else None
            if plain is None or cached is None:
                return None
            key = plain
        if not cached.validity.is_valid(arrived_at, self._wall_clock()):
            self._responses.drop(key)
            return None
        return cached, request_id

    def _render(self, cached: _CachedResponse, request_id: bytes, arrived_at: float) -> bytes:
        headers = self._headers
        response = cached.head + headers.render(headers.request_id(request_id)) + cached.body
        now = self._monotonic()
        if now - cached.touched_at > TOUCH_PERIOD_S:
            cached.touched_at = now
            cached.validity.touch()
        cached.requests.value += 1
        cached.reads.value += 1
        cached.seconds.observe(now - arrived_at)
        return response

    def store(self, head: bytes, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Stores the response just written to the request `head`, if the application allows it."""
        cacheable = request.get(CACHEABLE_RESPONSE)
        if cacheable is None or not isinstance(response, web.Response):
            return
        if not (
            response.status == 200
            and isinstance(response.body, bytes)
            and hdrs.CONTENT_LENGTH not in request.headers
            and is_storable(head, request, response)
        ):
            return
        key, _ = read_key(head)
        if key is None:
            return
        lines = [b"HTTP/1.1 200 OK\r\n"] + [
            f"{name}: {value}\r\n".encode()
            for name, value in response.headers.items()
            if name not in {"X-Request-Id", hdrs.DATE}
        ]
        response_head = b"".join(lines)
        cached = _CachedResponse(
            cacheable.validity,
            response_head,
            response.body,
            *self._metrics.requests.of(request[ROUTE], request.method, 200),
            self._metrics.cache_requests.labels(cacheable.label, "hit", ""),
            self._monotonic(),
        )
        texts_bytes = len(key) + len(response_head) + len(response.body)
        self._responses.put(key, cached, ENTRY_OVERHEAD_BYTES + texts_bytes)
