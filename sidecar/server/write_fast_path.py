"""Calls that may be made again with another body, by the head of their request.

A CU writes to one execution over and over, and all but the body of such a request is as it was
the first time. So once the application has taken a write, what it made of the head is kept
(`services.ReplayableCall`), and a later request with the same head goes on from there: its body is
decoded, admitted, limited and made durable by the very functions that aiohttp's way leads to.
"""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE

from kit.http.body_reader import UNCOUNTED_BODY_BYTES
from kit.http.logs import fields
from kit.http.problems import InternalError, Problem
from kit.http.routing import ROUTE, json_response, problem_response
from sidecar.api.services import REPLAYABLE_CALL, NeedsFullRequest, ReplayableCall
from sidecar.metrics import Metrics
from sidecar.server.byte_bounded_fifo import ByteBoundedFifo
from sidecar.server.request_key import HEAD_MAX_BYTES, Stamp, is_cacheable, normalize_head

logger = logging.getLogger(__name__)

MAX_BYTES = 1024 * 1024
"""For heads of calls: some five hundred."""
BODY_MAX_BYTES = UNCOUNTED_BODY_BYTES
"""Larger ones are rare, share a room and have to come in time: all of that is aiohttp's way."""
ENTRY_OVERHEAD_BYTES = 1500

_LENGTH = re.compile(rb"\r\n(?i:content-length):[ \t]*([0-9]{1,7})[ \t]*(?=\r\n)")


_SERVER = SERVER_SOFTWARE.encode()


@dataclass(frozen=True, slots=True)
class _Known:
    call: ReplayableCall
    route: str
    method: str


@dataclass(frozen=True, slots=True)
class MatchedRequest:
    """A whole request, known but for its body."""

    known: _Known
    body: bytes
    request_id: bytes


class WriteFastPath:
    """Bounded by bytes; what was kept first leaves first, and comes back if it is in use."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        wall_clock: Callable[[], float] = time.time,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._metrics = metrics
        self._known: ByteBoundedFifo[_Known] = ByteBoundedFifo(max_bytes)
        self._stamp = Stamp(wall_clock)

    @property
    def size_bytes(self) -> int:
        return self._known.size_bytes

    def begin(self, data: bytes) -> MatchedRequest | None:
        """The request in `data`, if it is exactly one of a known head; else None."""
        end = data.find(b"\r\n\r\n", 0, HEAD_MAX_BYTES) + 4
        if end < 4:
            return None
        plain, length, request_id = _without_length(data[:end])
        if plain is None or length != len(data) - end or length > BODY_MAX_BYTES:
            return None
        known = self._known.get(plain)
        if known is None:
            return None
        return MatchedRequest(known, data[end:], self._stamp.request_id(request_id))

    async def answer(self, begun: MatchedRequest) -> bytes | None:
        """The whole answer, counted as given; None where only aiohttp's way leads to one."""
        known, request_id = begun.known, begun.request_id.decode()
        try:
            answer = await known.call.replay(begun.body)
        except NeedsFullRequest:
            return None
        except Problem as problem:
            response = problem_response(problem, request_id)
        except Exception:
            logger.exception("request failed", extra=fields(request_id=request_id))
            response = problem_response(InternalError("see the log"), request_id)
        else:
            response = json_response(answer)
        self._metrics.http_requests.labels(known.route, known.method, response.status).inc()
        return self._written(response, begun.request_id)

    def _written(self, response: web.Response, request_id: bytes) -> bytes:
        body = response.body
        assert isinstance(body, bytes)  # noqa: S101 (it was made from JSON here)
        headers = "".join([f"{name}: {value}\r\n" for name, value in response.headers.items()])
        return b"%s%sContent-Length: %d\r\nServer: %s\r\n%s%s" % (
            f"HTTP/1.1 {response.status} {response.reason}\r\n".encode(),
            headers.encode(),
            len(body),
            _SERVER,
            self._stamp(request_id),
            body,
        )

    def keep(self, head: bytes, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Remembers the call just answered to the request whose head was `head`, if it may be."""
        call = request.get(REPLAYABLE_CALL)
        if call is None or not is_cacheable(head, request, response):
            return
        plain, _, _ = _without_length(head)
        if plain is None:
            return
        known = _Known(call, request[ROUTE], request.method)
        self._known.put(plain, known, ENTRY_OVERHEAD_BYTES + len(plain))


def _without_length(head: bytes) -> tuple[bytes | None, int, bytes]:
    """The plain head without the one length of its body, that length, and the request's id.

    None if it does not have just one.
    """
    plain, request_id = normalize_head(head)
    lengths = _LENGTH.findall(plain) if plain is not None else ()
    if plain is None or len(lengths) != 1:
        return None, 0, request_id
    return _LENGTH.sub(b"", plain), int(lengths[0]), request_id
