"""Bodies that are held in memory at once, so that many callers together cannot exhaust it.

A body is held from its first byte until its call is answered. Small ones are not counted: there
are no more of them than connections. Larger ones share a room; whoever finds it full is told to
come again, and of one address nobody holds more than its share. All of a body has to come
within a time, or sending it slowly would be the way to keep the room full.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import hdrs, web

from kit.http.connection_limits import ConnectionLimiter
from kit.http.problems import BodyTooLarge, BodyTooSlow, Overloaded, UnsupportedMediaType

UNCOUNTED_BODY_BYTES = 16 * 1024
"""Ordinary calls have a few hundred bytes."""
WITHIN_S = 30.0
RETRY_AFTER_S = 1.0


class BodyReader:
    """Promise: no more than `max_total_bytes` of large bodies are held; 0 is no limit."""

    def __init__(
        self,
        connections: ConnectionLimiter | None = None,
        *,
        max_total_bytes: int = 0,
        share: float = 1.0,
        within_s: float = WITHIN_S,
    ) -> None:
        self.connections = connections or ConnectionLimiter()
        self._room_bytes = max_total_bytes
        self._share_bytes = share * max_total_bytes
        self._within_s = within_s
        self._held: dict[str, int] = {}
        """By address."""

    @property
    def held_bytes(self) -> int:
        return sum(self._held.values())

    @asynccontextmanager
    async def body(self, request: web.Request, max_bytes: int) -> AsyncIterator[bytes]:
        """The whole body, held for the block, in which the request's connection is at work.

        Raises `BodyTooLarge`, `UnsupportedMediaType` and `Overloaded`, before anything is read
        where the length is announced, and `BodyTooSlow`.
        """
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise UnsupportedMediaType("Content-Encoding: expected none, bodies are sent as is")
        length = request.content_length
        if length is not None and length > max_bytes:
            raise _too_large(max_bytes)
        held = _Held(self, request.remote or "")
        try:
            held.grow(length or 0)
            raw_body = await self._read(request, held, max_bytes)
            with self.connections.working(request.transport):
                yield raw_body
        finally:
            held.release()

    async def _read(self, request: web.Request, held: "_Held", max_bytes: int) -> bytes:
        if not request.can_read_body:
            return b""
        chunks = bytearray()
        try:
            async with asyncio.timeout(self._within_s):
                async for chunk in request.content.iter_any():
                    chunks += chunk
                    if len(chunks) > max_bytes:
                        raise _too_large(max_bytes)
                    held.grow(len(chunks))
        except TimeoutError as error:
            raise BodyTooSlow(f"the whole body has to come within {self._within_s:g} s") from error
        return bytes(chunks)

    def take(self, host: str, size_bytes: int) -> None:
        """Raises `Overloaded`."""
        of_host = self._held.get(host, 0)
        is_too_much = of_host > 0 and of_host + size_bytes > self._share_bytes
        if self._room_bytes and (is_too_much or self.held_bytes + size_bytes > self._room_bytes):
            raise Overloaded("too many large bodies at once", retry_after_s=RETRY_AFTER_S)
        self._held[host] = of_host + size_bytes

    def give_back(self, host: str, size_bytes: int) -> None:
        self._held[host] -= size_bytes
        if not self._held[host]:
            del self._held[host]


class _Held:
    """What one call holds of the room."""

    def __init__(self, intake: BodyReader, host: str) -> None:
        self._intake = intake
        self._host = host
        self._taken_bytes = 0

    def grow(self, size_bytes: int) -> None:
        """The body has, or will have, so many bytes. Raises `Overloaded`."""
        if size_bytes > max(self._taken_bytes, UNCOUNTED_BODY_BYTES):
            self._intake.take(self._host, size_bytes - self._taken_bytes)
            self._taken_bytes = size_bytes

    def release(self) -> None:
        if self._taken_bytes:
            self._intake.give_back(self._host, self._taken_bytes)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body may have at most {max_bytes} bytes")
