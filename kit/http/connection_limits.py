"""How many connections a listener holds, and which one is evicted for a new one.

Anybody who reaches a port can open thousands of connections, and no caller is known before a
request has been read. So a new connection is admitted even at `max_connections`: of the client
address with the most connections, the one that has been idle longest is evicted. A connection is
idle until a whole request has arrived; half a head or half a body does not make it busy. Busy
connections are never evicted; if all are busy, new ones get 503.

    accepted --> idle <--> busy
        |         `--> evicted (aborted)
        `--> refused (503), if all others are busy

The size of a request head and of each line in it is bounded too (431), because a parser buffers all
of it.

A caller without verified credentials gets one response per round trip. If it has sent another
request ahead, its connection ends with the response (RFC 9112, section 9.3.2): thousands of
requests would else be read, parsed and refused one by one, long after their sender has left.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from typing import TypeAlias, cast

import msgspec
from aiohttp import web

from kit.http.problems import HeadTooLarge, Overloaded, Problem
from kit.http.settings import Address

HEAD_MAX_BYTES = 24 * 1024
"""Above any head with the longest tokens; aiohttp itself accepts a megabyte."""
HEAD_LINE_MAX_BYTES = 8190
"""aiohttp's own limit for a header, whose refusal quotes the header."""
LINGER_S = 1.0
"""What arrives after the last response is discarded so long, or a reset overtakes the response."""
RETRY_AFTER_S = 1.0
HANDSHAKE_TIMEOUT_S = 10.0
RECEIVE_BUFFER_BYTES = 16 * 1024
"""Of a TCP connection in the kernel, which doubles it. One read returns no more: whatever a client
sends ahead of its responses is held by the process, for each connection."""
READ_BYTES = 16 * 1024
"""Of one read before the caller is verified: more than an ordinary request. As a server's
`read_bufsize` it bounds what of a body waits for its call: twice as much."""
BODY_READ_BYTES = 256 * 1024
"""Of one read once somebody waits for the body."""
LOCAL = "local"
"""One client for 127.0.0.0/8, ::1 and unix sockets. With sixteen million addresses to call from,
a process would else make any other one the address that has most connections."""

_HEAD_LIMITS = (
    f"a line of the head may have {HEAD_LINE_MAX_BYTES} bytes, all of it {HEAD_MAX_BYTES}"
)

OnDropped: TypeAlias = Callable[[str], None]
"""Called for each connection dropped by the limit, with the reason: `refused` or `evicted`."""


class ConnectionSlot:
    """One admitted connection, and the size of the request head that it is receiving."""

    __slots__ = (
        "_has_head",
        "_head_bytes",
        "_is_ended",
        "_line",
        "host",
        "is_body_wanted",
        "transport",
    )

    def __init__(self, transport: asyncio.Transport, host: str) -> None:
        self.transport = transport
        self.host = host
        self._is_ended = False
        self.expect_head()

    def expect_head(self) -> None:
        """The next byte belongs to the head of another request."""
        self.is_body_wanted = False
        self._has_head = False
        self._head_bytes = 0
        self._line = b""  # the last one, from the line end before it

    def accepts(self, data: bytes) -> bool:
        """False after the last response, and once the head or a line of it is too long.

        Then 431 has been sent, and a handler only sees the connection end.
        """
        if self._is_ended:
            return False
        if self._has_head or self._count_head(data):
            return True
        self.transport.write(_response(HeadTooLarge(_HEAD_LIMITS)))
        self.end()
        return False

    def end(self) -> None:
        """The last response has been written: what still arrives is discarded until the client
        closes, for `LINGER_S` at most (RFC 9112, section 9.6)."""
        self._is_ended = True
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER_S, self.transport.abort)

    def _count_head(self, data: bytes) -> bool:
        received = self._line + data
        end = received.find(b"\r\n\r\n")
        self._has_head = end >= 0
        head = received[:end] if self._has_head else received
        self._head_bytes += max(0, len(head) - len(self._line))
        self._line = b"" if self._has_head else received[max(0, received.rfind(b"\r\n")) :]
        if self._head_bytes > HEAD_MAX_BYTES:
            return False
        return (
            len(head) <= HEAD_LINE_MAX_BYTES
            or max(map(len, head.split(b"\r\n"))) <= HEAD_LINE_MAX_BYTES
        )


class ConnectionLimiter:
    """At most `max_connections` at once; 0 is no limit."""

    def __init__(
        self, max_connections: int = 0, on_dropped: OnDropped = lambda reason: None
    ) -> None:
        self._max_connections = max_connections
        self._on_dropped = on_dropped
        self._slots: dict[asyncio.BaseTransport, ConnectionSlot] = {}
        self._host_counts: dict[str, int] = {}
        self._idle: dict[str, dict[ConnectionSlot, None]] = {}
        """By client address, the longest idle first."""
        self._buffer = memoryview(bytearray(BODY_READ_BYTES))
        """Of all connections: what one read leaves in it is copied before the next."""
        self._small_buffer = self._buffer[:READ_BYTES]

    @property
    def count(self) -> int:
        return len(self._slots)

    def admit(self, transport: asyncio.BaseTransport) -> ConnectionSlot | None:
        """A slot, evicting an idle connection if need be; None after a 503 to this one."""
        slot = ConnectionSlot(cast("asyncio.Transport", transport), _host(transport))
        is_full = self._max_connections and len(self._slots) >= self._max_connections
        if is_full and not self._evict_idle():
            self._on_dropped("refused")
            full = Overloaded("every connection is busy", retry_after_s=RETRY_AFTER_S)
            slot.transport.write(_response(full))
            slot.transport.close()
            return None
        self._slots[transport] = slot
        self._host_counts[slot.host] = self._host_counts.get(slot.host, 0) + 1
        self._add_idle(slot)
        return slot

    def release(self, slot: ConnectionSlot) -> None:
        """The connection is closed."""
        if self._slots.pop(slot.transport, None) is None:
            return
        self._remove_idle(slot)
        self._host_counts[slot.host] -= 1
        if not self._host_counts[slot.host]:
            del self._host_counts[slot.host]

    def touch(self, slot: ConnectionSlot) -> None:
        """A request was answered: an idle connection becomes the last to be evicted."""
        idle = self._idle.get(slot.host)
        if idle is not None and slot in idle:
            del idle[slot]
            idle[slot] = None

    def read_buffer(self, slot: ConnectionSlot | None) -> memoryview:
        """Where the next bytes of a connection are read to."""
        return self._buffer if slot is not None and slot.is_body_wanted else self._small_buffer

    def want_body(self, transport: asyncio.BaseTransport | None) -> None:
        """A caller that is verified sends a large body."""
        slot = self._slots.get(transport) if transport is not None else None
        if slot is not None:
            slot.is_body_wanted = True

    @contextmanager
    def busy(self, transport: asyncio.BaseTransport | None) -> Iterator[None]:
        """A whole request has arrived: its connection is not evicted during the block."""
        is_counted = self.mark_busy(transport)
        try:
            yield
        finally:
            if is_counted:
                self.mark_idle(transport)

    def mark_busy(self, transport: asyncio.BaseTransport | None) -> bool:
        """Begins such a block; False if the connection is not counted."""
        slot = self._slots.get(transport) if transport is not None else None
        if slot is not None:
            self._remove_idle(slot)
        return slot is not None

    def mark_idle(self, transport: asyncio.BaseTransport | None) -> None:
        """Ends such a block."""
        slot = self._slots.get(transport) if transport is not None else None
        if slot is not None:
            self._add_idle(slot)

    def middleware(
        self, is_verified: Callable[[web.Request], bool] = lambda request: False
    ) -> Callable[..., Awaitable[web.StreamResponse]]:
        """The outermost middleware: the next head begins where this request ends.

        A request that was answered early ends with the rest of its body, still to arrive.
        `is_verified`: whether the credentials of a request that was served are valid.
        """

        @web.middleware
        async def track_requests(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            transport = request.transport
            try:
                response = await handler(request)
            finally:
                slot = self._slots.get(transport) if transport is not None else None
                if slot is not None:
                    request.content.on_eof(slot.expect_head)
                    self.touch(slot)
            if slot is not None and _has_sent_ahead(request) and not is_verified(request):
                await _send_last(slot, request, response)
            return response

        return track_requests

    def _evict_idle(self) -> bool:
        if not self._idle:
            return False
        host = max(self._idle, key=self._host_counts.__getitem__)
        slot = next(iter(self._idle[host]))
        self.release(slot)
        self._on_dropped("evicted")
        slot.transport.abort()
        return True

    def _add_idle(self, slot: ConnectionSlot) -> None:
        self._idle.setdefault(slot.host, {})[slot] = None

    def _remove_idle(self, slot: ConnectionSlot) -> None:
        idle = self._idle.get(slot.host)
        if idle is not None:
            idle.pop(slot, None)
            if not idle:
                del self._idle[slot.host]


class CountedConnection(asyncio.BufferedProtocol):
    """Wraps a server's protocol so that its connection counts towards the limit.

    The event loop would read 256 KB at once of anybody, and the server holds what one read returned
    until its turn comes.
    """

    def __init__(
        self, connections: ConnectionLimiter, open_handler: Callable[[], asyncio.Protocol]
    ) -> None:
        self._connections = connections
        self._open_handler = open_handler
        self._handler: asyncio.Protocol | None = None
        self._slot: ConnectionSlot | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._slot = self._connections.admit(transport)
        if self._slot is not None:
            self._handler = self._open_handler()
            self._handler.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._connections.read_buffer(self._slot)

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._connections.read_buffer(self._slot)[:nbytes]))

    def data_received(self, data: bytes) -> None:
        if self._handler is None or self._slot is None:
            return
        if self._slot.accepts(data):
            self._handler.data_received(data)

    def eof_received(self) -> bool | None:
        return None if self._handler is None else self._handler.eof_received()

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._handler is not None and self._slot is not None:
            self._connections.release(self._slot)
            self._handler.connection_lost(exc)


@asynccontextmanager
async def listening(
    runner: web.AppRunner,
    address: Address,
    connections: ConnectionLimiter,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[None]:
    """Serves the runner's application for the block. Raises OSError for a port in use."""
    await runner.setup()
    try:
        handlers = runner.server
        assert handlers is not None  # noqa: S101 (set up just now)
        server = await asyncio.get_running_loop().create_server(
            lambda: CountedConnection(connections, handlers),
            address.host,
            address.port,
            ssl=context,
            # A connection counts only after its handshake.
            ssl_handshake_timeout=None if context is None else HANDSHAKE_TIMEOUT_S,
        )
        try:
            yield
        finally:
            server.close()
    finally:
        await runner.cleanup()


def bound_receive_buffers(server: asyncio.Server) -> None:
    """Connections inherit the listening socket's buffer. For loopback only: over a network it would
    bound the throughput of a large body to one buffer for each round trip."""
    for listener in server.sockets:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


def _has_sent_ahead(request: web.Request) -> bool:
    """Whether a whole further request has arrived; aiohttp has no public name for its queue."""
    return bool(request.protocol._messages)


async def _send_last(
    slot: ConnectionSlot, request: web.Request, response: web.StreamResponse
) -> None:
    """Sends the response, ends the connection, and frees what the server holds of it."""
    response.force_close()
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write_eof()
    slot.end()
    server = request.protocol
    server.transport = None  # which it would close at once
    server.connection_lost(None)


def _host(transport: asyncio.BaseTransport) -> str:
    """The client's address; `LOCAL` for all that every process of this machine or pod may use."""
    peer = transport.get_extra_info("peername")
    host = str(peer[0]) if isinstance(peer, tuple) else LOCAL
    return LOCAL if host.removeprefix("::ffff:").startswith("127.") or host == "::1" else host


def _response(problem: Problem) -> bytes:
    """The last one of its connection."""
    body = msgspec.json.encode(problem.document())
    headers = {"Content-Type": "application/problem+json", "Connection": "close"}
    headers |= {**problem.headers, "Content-Length": str(len(body))}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    reason = HTTPStatus(problem.status).phrase
    return f"HTTP/1.1 {problem.status} {reason}\r\n{''.join(lines)}\r\n".encode() + body
