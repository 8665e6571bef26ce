"""Connections whose known requests are answered at once and whose others are aiohttp's."""

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.web_protocol import RequestHandler

from kit.http.connection_limits import ConnectionLimiter, ConnectionSlot
from sidecar.server.framing import RequestFramer
from sidecar.server.response_cache import ResponseCache
from sidecar.server.write_fast_path import MatchedRequest, WriteFastPath

SWEEP_PERIOD_S = 10.0
HEAD_TIMEOUT_S = 30.0
"""A head of a kilobyte comes in one piece; who dribbles it for longer only holds memory."""
KEEPALIVE_TIMEOUT_S = 3630.0
"""As aiohttp's: longer than any client keeps an idle connection itself."""
MAX_BUFFERED_BYTES = 64 * 1024
"""What may come behind a call under way before the connection is read no further."""
DISABLED_TIMEOUT_S = 10.0 * 365 * 24 * 3600
"""aiohttp's own timer is told to wait for this: it does not see what is answered here."""

Finished = Callable[[web.BaseRequest, web.StreamResponse], None]


class ProtocolFactory:
    """Makes the connections of a listener, in front of an application's own server.

    `access_log_hook` has to be the server's access log: it is how aiohttp says that an answer
    has been written.
    """

    def __init__(self, answers: ResponseCache, calls: WriteFastPath) -> None:
        self.answers = answers
        self.calls = calls
        self.counted = ConnectionLimiter()
        self._connections: set[Connection] = set()
        self._by_handler: dict[object, Connection] = {}
        self._server: web.Server | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self.is_closing = False

    def access_log_hook(self) -> type[AbstractAccessLogger]:
        finished = self._finished

        class CompletionLog(AbstractAccessLogger):
            def log(
                self, request: web.BaseRequest, response: web.StreamResponse, time: float
            ) -> None:
                finished(request, response)

        return CompletionLog

    def open(self, server: web.Server, counted: ConnectionLimiter) -> None:
        self._server = server
        self.counted = counted
        self._sweep()

    async def close(self, *, timeout_s: float) -> None:
        """Ends what aiohttp does not know of; its own connections end with its server.

        Calls under way are answered, if they do not take longer than `timeout_s`; those that come
        now are aiohttp's, whose server waits for them in the same way.
        """
        self.is_closing = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        calls = [c.call for c in self._connections if c.call is not None]
        if calls:
            await asyncio.wait(calls, timeout=timeout_s)
        for connection in tuple(self._connections):
            connection.close_if_unknown_to_aiohttp()

    def __call__(self) -> asyncio.Protocol:
        connection = Connection(self)
        self._connections.add(connection)
        return connection

    def begin(self, data: bytes) -> MatchedRequest | None:
        return None if self.is_closing else self.calls.begin(data)

    def open_handler(self, connection: "Connection") -> RequestHandler:
        assert self._server is not None  # noqa: S101 (opened before it listens)
        handler = self._server()
        self._by_handler[handler] = connection
        return handler

    def lost(self, connection: "Connection", handler: RequestHandler | None) -> None:
        self._connections.discard(connection)
        self._by_handler.pop(handler, None)

    def _finished(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        connection = self._by_handler.get(request.protocol)
        if connection is not None:
            connection.finished(request, response)

    def _sweep(self) -> None:
        for connection in tuple(self._connections):
            connection.swept()
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(SWEEP_PERIOD_S, self._sweep)


class Connection(asyncio.Protocol):
    """One connection. Whose turn it is to read follows from `call` and `_message`:

    - a call: one known request is being answered here, and what comes behind it is held;
    - neither: nothing is under way, and a known request is answered here;
    - a message: aiohttp reads it or owes its answer, and gets every byte, until it has
      answered and the message was whole, when the turn comes back;
    - a lost message: all that comes is aiohttp's, to the end of the connection.
    """

    def __init__(self, door: ProtocolFactory) -> None:
        self._door = door
        self.call: asyncio.Task[None] | None = None
        self._held = b""
        self._seat: ConnectionSlot | None = None
        self._handler: RequestHandler | None = None
        self._message: RequestFramer | None = None
        self._idle_ticks = 0
        self._slow_head_ticks = 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._seat = self._door.counted.admit(transport)

    def data_received(self, data: bytes) -> None:
        self._idle_ticks = 0
        if self._seat is None:
            return  # it was refused, and is being closed
        if self.call is not None:
            self._hold(data)
            return
        if self._message is None:
            # Only reads are known by their answers, and only writes have bodies.
            if data.startswith(b"GET "):
                answer = self._door.answers.answer(data)
                if answer is not None:
                    self._transport.write(answer)
                    self._door.counted.touch(self._seat)
                    return
            elif (begun := self._door.begin(data)) is not None:
                self.call = asyncio.get_running_loop().create_task(self._answer_fast(begun, data))
                return
            self._message = RequestFramer()
        self._give_to_aiohttp(data)

    async def _answer_fast(self, begun: MatchedRequest, data: bytes) -> None:
        """Answers a known call. Its caller may leave: what was begun is not undone by that."""
        with self._door.counted.busy(self._transport):
            answer = await self._door.calls.answer(begun)
        self.call = None
        held, self._held = self._held, b""
        if self._transport.is_closing():
            return
        self._resume_reading()
        if answer is not None:
            self._transport.write(answer)
        else:
            self._message = RequestFramer()
            self._give_to_aiohttp(data)
        if held:
            self.data_received(held)

    def _hold(self, data: bytes) -> None:
        self._held += data
        if len(self._held) > MAX_BUFFERED_BYTES:
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        """Reads again, if neither what is held nor what its caller has not read is in the way."""
        if not self._paused and len(self._held) <= MAX_BUFFERED_BYTES:
            self._transport.resume_reading()

    def _give_to_aiohttp(self, data: bytes) -> None:
        assert self._message is not None  # noqa: S101 (for the type checker)
        assert self._seat is not None  # noqa: S101 (likewise)
        if not self._seat.count_head_bytes(data):
            self._transport.abort()
            return
        if not self._message.is_ambiguous:
            self._message.feed(data)
        if self._handler is None:
            self._handler = self._door.open_handler(self)
            self._handler.connection_made(self._transport)
        self._handler.data_received(data)

    def finished(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """aiohttp has written an answer."""
        message = self._message
        if message is None or message.is_ambiguous:
            return
        if not message.is_whole:
            message.is_ambiguous = True  # answered early: the rest of it is still to come
            return
        self._message = None
        self._slow_head_ticks = 0
        self._door.answers.keep(message.head, request, response)
        self._door.calls.keep(message.head, request, response)

    def swept(self) -> None:
        """A sweep has passed: ends the connection if nothing, or only half a head, came."""
        self._idle_ticks += 1
        message = self._message
        dribbles = message is not None and not message.has_head and not message.is_ambiguous
        self._slow_head_ticks = self._slow_head_ticks + 1 if dribbles else 0
        is_idle = self._idle_ticks * SWEEP_PERIOD_S > KEEPALIVE_TIMEOUT_S
        if is_idle or self._slow_head_ticks * SWEEP_PERIOD_S > HEAD_TIMEOUT_S:
            self._transport.close()

    def close_if_unknown_to_aiohttp(self) -> None:
        if self._handler is None:
            self._transport.close()

    def pause_writing(self) -> None:
        if self._message is None:
            # The caller sends and does not read: its answers must not pile up here.
            self._paused = True
            self._transport.pause_reading()
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._paused:
            self._paused = False
            self._resume_reading()
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._seat is not None:
            self._door.counted.release(self._seat)
        self._door.lost(self, self._handler)
        if self._handler is not None:
            self._handler.connection_lost(exc)
