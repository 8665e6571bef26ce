"""Connections of the local API: known requests are served here, all others by aiohttp.

States and rules: the package's essay.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.web_protocol import RequestHandler

from kit.http.connection_limits import (
    READ_BYTES,
    ConnectionLimiter,
    ConnectionSlot,
    CountedConnection,
    bound_receive_buffers,
)
from sidecar.server.framing import RequestFramer
from sidecar.server.response_cache import ResponseCache
from sidecar.server.unix_socket import PeerCheck, bind
from sidecar.server.write_fast_path import MatchedRequest, WriteFastPath
from sidecar.settings import UnixSocket

TICK_PERIOD_S = 10.0
HEAD_TIMEOUT_S = 30.0
"""A head of a kilobyte arrives at once; a slower one only holds memory."""
KEEPALIVE_TIMEOUT_S = 3630.0
"""As aiohttp's: longer than any client keeps an idle connection itself."""
MAX_BUFFERED_BYTES = 64 * 1024
"""Bytes behind a write being replayed, above which the connection is not read."""
DISABLED_TIMEOUT_S = 10.0 * 365 * 24 * 3600
"""For aiohttp's keep-alive timer, which does not see the requests that are served here."""


class ProtocolFactory:
    """Makes the protocol of each connection, in front of the application's aiohttp server.

    `access_log_hook` has to be the server's access log class: aiohttp calls it once a response
    has been written.
    """

    def __init__(self, response_cache: ResponseCache, write_fast_path: WriteFastPath) -> None:
        self.response_cache = response_cache
        self.write_fast_path = write_fast_path
        self.limiter = ConnectionLimiter()
        self._connections: set[Connection] = set()
        self._by_handler: dict[object, Connection] = {}
        self._server: web.Server | None = None
        self._next_tick: asyncio.TimerHandle | None = None
        self.is_closing = False

    def access_log_hook(self) -> type[AbstractAccessLogger]:
        on_response_written = self._on_response_written

        class ResponseWrittenHook(AbstractAccessLogger):
            def log(
                self, request: web.BaseRequest, response: web.StreamResponse, time: float
            ) -> None:
                on_response_written(request, response)

        return ResponseWrittenHook

    def start(self, server: web.Server, limiter: ConnectionLimiter) -> None:
        self._server = server
        self.limiter = limiter
        self._tick()

    async def close(self, *, timeout_s: float) -> None:
        """Closes the connections that aiohttp does not know; its server closes the others.

        Waits up to `timeout_s` for writes being replayed. New requests are delegated to aiohttp,
        whose server waits for them likewise.
        """
        self.is_closing = True
        if self._next_tick is not None:
            self._next_tick.cancel()
        replays = [c.replay for c in self._connections if c.replay is not None]
        if replays:
            await asyncio.wait(replays, timeout=timeout_s)
        for connection in tuple(self._connections):
            connection.close_if_unknown_to_aiohttp()

    def __call__(self) -> asyncio.Protocol:
        connection = Connection(self)
        self._connections.add(connection)
        return connection

    def match_write(self, data: bytes) -> MatchedRequest | None:
        return None if self.is_closing else self.write_fast_path.match(data)

    def open_handler(self, connection: "Connection") -> RequestHandler:
        assert self._server is not None  # noqa: S101 (started before it listens)
        handler = self._server()
        self._by_handler[handler] = connection
        return handler

    def on_closed(self, connection: "Connection", handler: RequestHandler | None) -> None:
        self._connections.discard(connection)
        self._by_handler.pop(handler, None)

    def _on_response_written(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        connection = self._by_handler.get(request.protocol)
        if connection is not None:
            connection.on_response_written(request, response)

    def _tick(self) -> None:
        for connection in tuple(self._connections):
            connection.on_tick()
        loop = asyncio.get_running_loop()
        self._next_tick = loop.call_later(TICK_PERIOD_S, self._tick)


class Connection(asyncio.Protocol):
    """One connection. Its state follows from `replay` and `_delegated`:

    IDLE if neither is set, REPLAYING with `replay`, DELEGATED with `_delegated`, and AIOHTTP ONLY
    once `_delegated` is ambiguous.
    """

    def __init__(self, factory: ProtocolFactory) -> None:
        self._factory = factory
        self.replay: asyncio.Task[None] | None = None
        self._buffered = b""
        self._slot: ConnectionSlot | None = None
        self._handler: RequestHandler | None = None
        self._delegated: RequestFramer | None = None
        self._idle_ticks = 0
        self._slow_head_ticks = 0
        self._is_writing_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._slot = self._factory.limiter.admit(transport)

    def data_received(self, data: bytes) -> None:
        self._idle_ticks = 0
        if self._slot is None:
            return  # refused, and being closed
        if self.replay is not None:
            self._buffer(data)
            return
        if self._delegated is None:
            # Only reads are cached, and only writes have bodies.
            if data.startswith(b"GET "):
                response = self._factory.response_cache.respond(data)
                if response is not None:
                    self._transport.write(response)
                    self._factory.limiter.touch(self._slot)
                    return
            elif (matched := self._factory.match_write(data)) is not None:
                loop = asyncio.get_running_loop()
                self.replay = loop.create_task(self._replay_write(matched, data))
                return
            self._delegated = RequestFramer()
        self._delegate(data)

    async def _replay_write(self, matched: MatchedRequest, data: bytes) -> None:
        """Runs to its end even if the client leaves: a write in progress is not undone by that."""
        with self._factory.limiter.busy(self._transport):
            response = await self._factory.write_fast_path.respond(matched, data)
        self.replay = None
        buffered, self._buffered = self._buffered, b""
        if self._transport.is_closing():
            return
        self._resume_reading()
        if response is not None:
            self._transport.write(response)
        else:
            self._delegated = RequestFramer()
            self._delegate(data)
        if buffered:
            self.data_received(buffered)

    def _buffer(self, data: bytes) -> None:
        self._buffered += data
        if len(self._buffered) > MAX_BUFFERED_BYTES:
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        """Unless too much is buffered or the client does not read its responses."""
        if not self._is_writing_paused and len(self._buffered) <= MAX_BUFFERED_BYTES:
            self._transport.resume_reading()

    def _delegate(self, data: bytes) -> None:
        assert self._delegated is not None  # noqa: S101 (for the type checker)
        assert self._slot is not None  # noqa: S101 (likewise)
        if not self._slot.accepts(data):
            return
        if not self._delegated.is_ambiguous:
            self._delegated.feed(data)
        if self._handler is None:
            self._handler = self._factory.open_handler(self)
            self._handler.connection_made(self._transport)
        self._handler.data_received(data)

    def on_response_written(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """aiohttp has written a response."""
        framer = self._delegated
        if framer is None or framer.is_ambiguous:
            return
        if not framer.is_complete:
            framer.is_ambiguous = True  # the rest of the request is still to arrive
            return
        self._delegated = None
        self._slow_head_ticks = 0
        self._factory.response_cache.store(framer.head, request, response)
        self._factory.write_fast_path.store(framer.head, request, response)

    def on_tick(self) -> None:
        """Closes the connection if nothing, or only a part of a head, arrived for too long."""
        self._idle_ticks += 1
        framer = self._delegated
        is_slow = framer is not None and not framer.has_head and not framer.is_ambiguous
        self._slow_head_ticks = self._slow_head_ticks + 1 if is_slow else 0
        is_idle = self._idle_ticks * TICK_PERIOD_S > KEEPALIVE_TIMEOUT_S
        if is_idle or self._slow_head_ticks * TICK_PERIOD_S > HEAD_TIMEOUT_S:
            self._transport.close()

    def close_if_unknown_to_aiohttp(self) -> None:
        if self._handler is None:
            self._transport.close()

    def pause_writing(self) -> None:
        if self._delegated is None:
            # The client sends without reading: its responses must not accumulate here.
            self._is_writing_paused = True
            self._transport.pause_reading()
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        if self._is_writing_paused:
            self._is_writing_paused = False
            self._resume_reading()
        if self._handler is not None:
            self._handler.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._slot is not None:
            self._factory.limiter.release(self._slot)
        self._factory.on_closed(self, self._handler)
        if self._handler is not None:
            self._handler.connection_lost(exc)


@asynccontextmanager
async def listening(
    app: web.Application,
    factory: ProtocolFactory | None,
    address: tuple[str, int],
    unix_socket: UnixSocket | None,
    *,
    shutdown_timeout_s: float,
    limiter: ConnectionLimiter | None = None,
    on_peer_refused: Callable[[], None] = lambda: None,
) -> AsyncIterator[None]:
    """Serves `app` for the block; without a `factory` every request goes to aiohttp.

    `on_peer_refused` is called for each connection to the unix socket by a uid that is not allowed.
    """
    async with (
        running_server(
            app, factory, shutdown_timeout_s=shutdown_timeout_s, limiter=limiter
        ) as make_protocol,
        AsyncExitStack() as stack,
    ):
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(make_protocol, *address)]
        if unix_socket is not None:
            make_checked = make_protocol
            if uids := unix_socket.allowed_uids:
                make_checked = partial(PeerCheck, uids, make_protocol, on_peer_refused)
            servers.append(await loop.create_unix_server(make_checked, sock=bind(unix_socket)))
        for server in servers:
            bound_receive_buffers(server)
            stack.callback(server.close)
        yield


@asynccontextmanager
async def running_server(
    app: web.Application,
    factory: ProtocolFactory | None,
    *,
    shutdown_timeout_s: float,
    limiter: ConnectionLimiter | None = None,
) -> AsyncIterator[Callable[[], asyncio.BaseProtocol]]:
    """Runs `app` without a listener; yields what makes the protocol of a new connection."""
    limiter = ConnectionLimiter() if limiter is None else limiter
    if factory is None:
        runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=shutdown_timeout_s, read_bufsize=READ_BYTES
        )
        async with _set_up(runner) as server:
            yield lambda: CountedConnection(limiter, server)
        return
    runner = web.AppRunner(
        app,
        access_log_class=factory.access_log_hook(),
        keepalive_timeout=DISABLED_TIMEOUT_S,
        shutdown_timeout=shutdown_timeout_s,
        read_bufsize=READ_BYTES,
    )
    async with _set_up(runner) as server:
        factory.start(server, limiter)
        try:
            yield factory
        finally:
            await factory.close(timeout_s=shutdown_timeout_s)


@asynccontextmanager
async def _set_up(runner: web.AppRunner) -> AsyncIterator[web.Server]:
    try:
        await runner.setup()
        assert runner.server is not None  # noqa: S101 (set up just now)
        yield runner.server
    finally:
        await runner.cleanup()
