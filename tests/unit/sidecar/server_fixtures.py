"""The local API over a fake central, with or without the fast paths, and a byte-level client."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from kit.http.body_reader import BodyReader
from kit.http.connection_limits import ConnectionLimiter
from sidecar.api.services import Services
from sidecar.delivery.loop import Delivery
from sidecar.forwarded import ForwardedCalls
from sidecar.server.app import build_app
from sidecar.server.protocol import ProtocolFactory, listening
from sidecar.server.response_cache import ResponseCache
from sidecar.server.write_fast_path import WriteFastPath
from sidecar.settings import LimitSettings
from sidecar.user_limits import UserLimits
from sidecar.writes import Writes
from tests.databases import free_port
from tests.unit.sidecar.read_fixtures import World

MIB = 1024 * 1024
CONNECTIONS, ROOM_BYTES = 640, 8 * MIB
TICKS = 40
"""Turns of the event loop within which any request here completes."""


@dataclass
class Reply:
    """One response as it was received."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    version: str

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def comparable(self) -> tuple[object, ...]:
        """Without the date and a generated request id, which differ between equal responses."""
        generated_id = self.header("X-Request-Id") or ""
        headers = sorted(
            (name.lower(), value)
            for name, value in self.headers
            if name.lower() != "date"
            and not (value == generated_id and re.fullmatch("[0-9a-f]{16}", value))
        )
        return (
            self.version,
            self.status,
            headers,
            re.sub(rb'"request_id":"[0-9a-f]{16}"', b"", self.body),
        )


@dataclass
class Served:
    """A running listener. `to_aiohttp` counts the requests that reach the application."""

    port: int
    to_aiohttp: int = 0
    factory: ProtocolFactory | None = None
    clients: list["HttpClient"] = field(default_factory=list)

    async def connect(self) -> "HttpClient":
        """A connection, closed with the listener."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.clients.append(HttpClient(reader, writer))
        return self.clients[-1]


@dataclass
class HttpClient:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        """Sends and lets the server read, so that chunks arrive as they were cut."""
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:
            return  # the server closed; its response can still be read
        for _ in range(3):
            await asyncio.sleep(0)

    async def request(self, request: bytes) -> Reply:
        await self.send(request)
        reply = await self.reply()
        assert reply is not None, "the connection was closed"
        return reply

    async def reply(self) -> Reply | None:
        """None if the connection was closed instead."""
        try:
            async with asyncio.timeout(30):
                reply = _parsed(await self.reader.readuntil(b"\r\n\r\n"))
                length = int(reply.header("Content-Length") or 0)
                reply.body = await self.reader.readexactly(length)
                return reply
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


def parsed(received: bytes) -> list[Reply]:
    """All responses in the bytes received."""
    replies, rest = [], received
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        replies.append(_parsed(head))
        # A response to HEAD has a length and no body.
        if not rest.startswith(b"HTTP/"):
            length = int(replies[-1].header("Content-Length") or 0)
            replies[-1].body, rest = rest[:length], rest[length:]
    return replies


def _parsed(head: bytes) -> Reply:
    status_line, *lines = head.decode().strip().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    version, status, *_ = status_line.split()
    return Reply(int(status), headers, b"", version)


def app_of(
    world: World, body_reader: BodyReader | None = None, limits: LimitSettings | None = None
) -> web.Application:
    delivery = Delivery(world.spool, world.central, world.metrics, world.reads)
    local = UserLimits(limits or LimitSettings(), world.spool, world.metrics)
    writes = Writes(
        world.spool, delivery, world.central, world.reads, world.access, local, world.metrics
    )
    forwarded = ForwardedCalls(world.spool, delivery, world.central, world.reads, writes.user_of)
    services = Services(world.reads, writes, forwarded, local)
    return build_app(services, world.metrics, body_reader)


def factory_of(world: World, max_bytes: int = MIB) -> ProtocolFactory:
    clock = world.clock
    responses = ResponseCache(max_bytes, world.metrics, monotonic=clock, wall_clock=clock)
    return ProtocolFactory(
        responses, WriteFastPath(world.metrics, wall_clock=clock, max_bytes=max_bytes)
    )


@asynccontextmanager
async def served(
    world: World, *, response_cache: bool, max_bytes: int = MIB
) -> AsyncIterator[Served]:
    limiter = ConnectionLimiter(CONNECTIONS)
    app = app_of(world, BodyReader(limiter, max_total_bytes=ROOM_BYTES))
    factory = factory_of(world, max_bytes) if response_cache else None
    listener = Served(free_port(), factory=factory)
    app.middlewares.insert(0, _counting(listener))
    address = ("127.0.0.1", listener.port)
    async with listening(app, factory, address, None, shutdown_timeout_s=2.0, limiter=limiter):
        try:
            yield listener
        finally:
            for client in listener.clients:
                client.writer.close()


class MemoryTransport(asyncio.Transport):
    """One connection without a network: pieces are received exactly as they were sent."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = bytearray()
        self.is_paused = False
        self._is_closing = False
        protocol.connection_made(self)

    async def send(self, data: bytes) -> None:
        """Delivers the piece and runs the loop until it has been processed."""
        if not self._is_closing:
            self.protocol.data_received(data)
        for _ in range(TICKS):
            await asyncio.sleep(0)

    def replies(self) -> list[Reply]:
        return parsed(bytes(self.written))

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        for data in list_of_data:
            self.written += data

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def get_write_buffer_size(self) -> int:
        return 0


def _counting(listener: Served) -> Any:
    @web.middleware
    async def count(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        listener.to_aiohttp += 1
        return await handler(request)

    return count


def get(target: str, *headers: str, token: str = "a") -> bytes:  # noqa: S107
    lines = [f"GET {target} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode()
