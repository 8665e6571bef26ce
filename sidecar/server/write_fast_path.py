"""Writes whose head repeats that of an earlier write, replayed with their own body.

A CU writes to one execution over and over, and only the body of such requests differs. So once
the application has accepted a write, its `ReplayableCall` is stored by the request's head. A later
request with this head is decoded, authorized, limited and made durable by the same functions as
on aiohttp's way; only parsing and routing are skipped.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE

from kit.http.body_reader import UNCOUNTED_BODY_BYTES
from kit.http.failed_calls import log_failed_call, trace_id
from kit.http.problems import InternalError, Problem
from kit.http.routing import PROBLEM, ROUTE, json_response, problem_response
from sidecar.api.services import REPLAYABLE_CALL, NeedsFullRequest, ReplayableCall
from sidecar.metrics import Metrics
from sidecar.server.framing import (
    HEAD_END,
    MAX_KEY_BYTES,
    is_storable,
    traceparent_of,
    write_key,
)
from sidecar.server.response_cache import ByteBoundedFifo, PerResponseHeaders

MAX_BYTES = 1024 * 1024
"""Room for some five hundred heads."""
MAX_BODY_BYTES = UNCOUNTED_BODY_BYTES
"""Larger bodies need the byte budget and the read timeout of aiohttp's way."""
ENTRY_OVERHEAD_BYTES = 1500

_SERVER = SERVER_SOFTWARE.encode()


@dataclass(frozen=True, slots=True)
class _KnownWrite:
    call: ReplayableCall
    route: str
    method: str


@dataclass(frozen=True, slots=True)
class MatchedRequest:
    """A complete request whose head is stored."""

    write: _KnownWrite
    body: bytes
    request_id: bytes


class WriteFastPath:
    """Matches requests to stored heads and replays their calls."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        wall_clock: Callable[[], float] = time.time,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._metrics = metrics
        self._writes: ByteBoundedFifo[_KnownWrite] = ByteBoundedFifo(max_bytes)
        self._headers = PerResponseHeaders(wall_clock)

    @property
    def size_bytes(self) -> int:
        return self._writes.size_bytes

    def match(self, data: bytes) -> MatchedRequest | None:
        """The request in `data`, if it is exactly one with a stored head; else None."""
        end = data.find(HEAD_END, 0, MAX_KEY_BYTES) + len(HEAD_END)
        if end < len(HEAD_END):
            return None
        key, body_bytes, request_id = write_key(data[:end])
        if key is None or body_bytes != len(data) - end or body_bytes > MAX_BODY_BYTES:
            return None
        write = self._writes.get(key)
        if write is None:
            return None
        return MatchedRequest(write, data[end:], self._headers.request_id(request_id))

    async def respond(self, matched: MatchedRequest, data: bytes) -> bytes | None:
        """Replays the call of the request `data`, and counts it; None if it needs aiohttp."""
        started_at = self._metrics.requests.clock()
        write, request_id = matched.write, matched.request_id.decode()
        try:
            result = await write.call.replay(matched.body)
        except NeedsFullRequest:
            return None
        except Problem as problem:
            response = _fail(write, problem, request_id, data)
        except Exception as error:
            response = _fail(write, InternalError("see the log"), request_id, data, error)
        else:
            response = json_response(result)
        self._metrics.requests.record(
            write.route,
            write.method,
            response.status,
            started_at,
            problem=response.get(PROBLEM),
        )
        return self._render(response, matched.request_id)

    def _render(self, response: web.Response, request_id: bytes) -> bytes:
        body = response.body
        assert isinstance(body, bytes)  # noqa: S101 (it was made from JSON here)
        headers = "".join([f"{name}: {value}\r\n" for name, value in response.headers.items()])
        return b"%s%sContent-Length: %d\r\nServer: %s\r\n%s%s" % (
            f"HTTP/1.1 {response.status} {response.reason}\r\n".encode(),
            headers.encode(),
            len(body),
            _SERVER,
            self._headers.render(request_id),
            body,
        )

    def store(self, head: bytes, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Stores the call just completed for the request `head`, if it may be replayed."""
        call = request.get(REPLAYABLE_CALL)
        if call is None or not is_storable(head, request, response):
            return
        key, _, _ = write_key(head)
        if key is None:
            return
        write = _KnownWrite(call, request[ROUTE], request.method)
        self._writes.put(key, write, ENTRY_OVERHEAD_BYTES + len(key))


def _fail(
    write: _KnownWrite,
    problem: Problem,
    request_id: str,
    data: bytes,
    error: Exception | None = None,
) -> web.Response:
    ids = {
        "trace_id": trace_id(traceparent_of(data)),
        "user_id": write.call.user_id,
        "execution_id": write.call.binding.execution_id,
        "computing_unit_id": write.call.binding.computing_unit_id,
    }
    log_failed_call(problem, request_id, write.method, write.route, ids, error)
    return problem_response(problem, request_id)
