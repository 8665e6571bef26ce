"""How many connections there are, and which of them makes room for another.

Whoever reaches a port can open thousands of connections, and nobody can be told from anybody
before a request has been read. So above `most` nobody is refused for being new: of the address
that holds the most, the connection that was idle longest is cut off. Idle is whatever no whole
request has come on; half a head or half a body is nothing yet. What is worked at is never cut
off; where that is all there is, the newcomer is refused.

    made -> idle <-> at work
              '-> cut off, to make room

A head is bounded too, because a parser keeps all of one until it ends.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias, cast

import msgspec
from aiohttp import web

from kit.http.problems import Overloaded
from kit.http.settings import Address

HEAD_MAX_BYTES = 24 * 1024
"""More than one with the longest tokens has; aiohttp by itself takes a megabyte."""
RETRY_AFTER_S = 1.0
HANDSHAKE_WITHIN_S = 10.0

Ended: TypeAlias = Callable[[str], None]
"""Told of each connection that had to end for lack of room: `refused` or `cut-off`."""


class ConnectionSlot:
    """A connection's place among the others."""

    __slots__ = ("_has_head", "_head_bytes", "_tail", "host", "transport")

    def __init__(self, transport: asyncio.Transport, host: str) -> None:
        self.transport = transport
        self.host = host
        self.begin()

    def begin(self) -> None:
        """What comes next is the head of a request."""
        self._has_head = False
        self._head_bytes = 0
        self._tail = b""

    def hears(self, data: bytes) -> bool:
        """False once a head has got too long."""
        if self._has_head:
            return True
        known = self._tail + data
        end = known.find(b"\r\n\r\n")
        self._has_head = end >= 0
        self._head_bytes += len(data) if end < 0 else max(0, end - len(self._tail))
        self._tail = known[-3:]
        return self._head_bytes <= HEAD_MAX_BYTES


class ConnectionLimiter:
    """Promise: there are never more than `most`; 0 is no limit."""

    def __init__(self, most: int = 0, ended: Ended = lambda how: None) -> None:
        self._most = most
        self._ended = ended
        self._seats: dict[asyncio.BaseTransport, ConnectionSlot] = {}
        self._counts: dict[str, int] = {}
        self._idle: dict[str, dict[ConnectionSlot, None]] = {}
        """By address; the one that was idle longest comes first."""

    @property
    def count(self) -> int:
        return len(self._seats)

    def admit(self, transport: asyncio.BaseTransport) -> ConnectionSlot | None:
        """A place, freed if need be; a newcomer who gets none is told so and ended."""
        seat = ConnectionSlot(cast("asyncio.Transport", transport), _host(transport))
        if self._most and len(self._seats) >= self._most and not self._make_room():
            self._ended("refused")
            seat.transport.write(_refusal())
            seat.transport.close()
            return None
        self._seats[transport] = seat
        self._counts[seat.host] = self._counts.get(seat.host, 0) + 1
        self._rest(seat)
        return seat

    def lost(self, seat: ConnectionSlot) -> None:
        if self._seats.pop(seat.transport, None) is None:
            return
        self._stir(seat)
        self._counts[seat.host] -= 1
        if not self._counts[seat.host]:
            del self._counts[seat.host]

    def used(self, seat: ConnectionSlot) -> None:
        """A whole request was answered: it is the last of the idle again."""
        idle = self._idle.get(seat.host)
        if idle is not None and seat in idle:
            del idle[seat]
            idle[seat] = None

    @contextmanager
    def working(self, transport: asyncio.BaseTransport | None) -> Iterator[None]:
        """A whole request has come: its connection is not cut off before it is answered."""
        seat = self._seats.get(transport) if transport is not None else None
        if seat is None:
            yield
            return
        self._stir(seat)
        try:
            yield
        finally:
            if seat.transport in self._seats:
                self._rest(seat)

    @property
    def middleware(self) -> Callable[..., Awaitable[web.StreamResponse]]:
        """The outermost: where one request has ended, the next one's head begins.

        A request that was answered early ends with the rest of its body, which is yet to come.
        """

        @web.middleware
        async def begin_anew(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            transport = request.transport
            try:
                return await handler(request)
            finally:
                seat = self._seats.get(transport) if transport is not None else None
                if seat is not None:
                    request.content.on_eof(seat.begin)
                    self.used(seat)

        return begin_anew

    def _make_room(self) -> bool:
        if not self._idle:
            return False
        crowd = max(self._idle, key=self._counts.__getitem__)
        seat = next(iter(self._idle[crowd]))
        self.lost(seat)
        self._ended("evicted")
        seat.transport.abort()
        return True

    def _rest(self, seat: ConnectionSlot) -> None:
        self._idle.setdefault(seat.host, {})[seat] = None

    def _stir(self, seat: ConnectionSlot) -> None:
        idle = self._idle.get(seat.host)
        if idle is not None:
            idle.pop(seat, None)
            if not idle:
                del self._idle[seat.host]


class CountedConnection(asyncio.Protocol):
    """A connection of a server's, counted among others."""

    def __init__(
        self, connections: ConnectionLimiter, open_handler: Callable[[], asyncio.Protocol]
    ) -> None:
        self._connections = connections
        self._open_handler = open_handler
        self._handler: asyncio.Protocol | None = None
        self._seat: ConnectionSlot | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._seat = self._connections.admit(transport)
        if self._seat is not None:
            self._handler = self._open_handler()
            self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._handler is None or self._seat is None:
            return
        if self._seat.hears(data):
            self._handler.data_received(data)
        else:
            self._seat.transport.abort()

    def eof_received(self) -> bool | None:
        return None if self._handler is None else self._handler.eof_received()

    def pause_writing(self) -> None:
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._handler is not None and self._seat is not None:
            self._connections.lost(self._seat)
            self._handler.connection_lost(exc)


@asynccontextmanager
async def listening(
    runner: web.AppRunner,
    address: Address,
    connections: ConnectionLimiter,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[None]:
    """Serves the runner's application for the block. Raises OSError for a taken port."""
    await runner.setup()
    try:
        handlers = runner.server
        assert handlers is not None  # noqa: S101 (set up just now)
        server = await asyncio.get_running_loop().create_server(
            lambda: CountedConnection(connections, handlers),
            address.host,
            address.port,
            ssl=context,
            # Until its end a handshake is a connection that nobody counts.
            ssl_handshake_timeout=None if context is None else HANDSHAKE_WITHIN_S,
        )
        try:
            yield
        finally:
            server.close()
    finally:
        await runner.cleanup()


def _host(transport: asyncio.BaseTransport) -> str:
    """Of a unix socket, where nobody has an address, the empty one."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else ""


def _refusal() -> bytes:
    problem = Overloaded("every connection is at work", retry_after_s=RETRY_AFTER_S)
    body = msgspec.json.encode(problem.document())
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
        b"Retry-After: %d\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
    ) % (RETRY_AFTER_S, len(body), body)
