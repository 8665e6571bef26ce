"""Reads request bodies, of which only so many bytes are buffered at once.

A body is buffered from its first byte until its call is answered. Bodies up to
`UNCOUNTED_BODY_BYTES` are not counted: their number is bounded by the number of connections.
Larger ones share a budget (503 `overloaded` beyond it), and no client address holds more than its
share. A body has to arrive within a timeout, so that slow senders cannot keep the budget taken.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import hdrs, web

from kit.http.connection_limits import ConnectionLimiter
from kit.http.problems import BodyTooLarge, BodyTooSlow, Overloaded, UnsupportedMediaType

UNCOUNTED_BODY_BYTES = 16 * 1024
"""Ordinary calls have a few hundred bytes."""
READ_TIMEOUT_S = 30.0
RETRY_AFTER_S = 1.0


class BodyReader:
    """At most `max_total_bytes` of counted bodies are buffered; 0 is no limit."""

    def __init__(
        self,
        connections: ConnectionLimiter | None = None,
        *,
        max_total_bytes: int = 0,
        max_share_per_host: float = 1.0,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self.connections = connections or ConnectionLimiter()
        self._max_total_bytes = max_total_bytes
        self._max_host_bytes = max_share_per_host * max_total_bytes
        self._read_timeout_s = read_timeout_s
        self._host_bytes: dict[str, int] = {}

    @property
    def buffered_bytes(self) -> int:
        return sum(self._host_bytes.values())

    @asynccontextmanager
    async def body(self, request: web.Request, max_bytes: int) -> AsyncIterator[bytes]:
        """The whole body, buffered for the block, during which its connection is busy.

        Raises `BodyTooLarge`, `UnsupportedMediaType` and `Overloaded`, before anything is read
        if the length is announced, and `BodyTooSlow`.
        """
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise UnsupportedMediaType("Content-Encoding: expected none")
        length = request.content_length
        if length is not None and length > max_bytes:
            raise _too_large(max_bytes)
        reservation = _Reservation(self, request.remote or "")
        try:
            reservation.grow(length or 0)
            raw_body = await self._read(request, reservation, max_bytes)
            with self.connections.busy(request.transport):
                yield raw_body
        finally:
            reservation.release()

    async def _read(
        self, request: web.Request, reservation: "_Reservation", max_bytes: int
    ) -> bytes:
        if not request.can_read_body:
            return b""
        chunks = bytearray()
        try:
            async with asyncio.timeout(self._read_timeout_s):
                async for chunk in request.content.iter_any():
                    chunks += chunk
                    if len(chunks) > max_bytes:
                        raise _too_large(max_bytes)
                    reservation.grow(len(chunks))
        except TimeoutError as error:
            detail = f"the body has to arrive within {self._read_timeout_s:g} s"
            raise BodyTooSlow(detail) from error
        return bytes(chunks)

    def reserve(self, host: str, size_bytes: int) -> None:
        """Raises `Overloaded`. A host that holds nothing may exceed its share by one body."""
        of_host = self._host_bytes.get(host, 0)
        exceeds_share = of_host > 0 and of_host + size_bytes > self._max_host_bytes
        exceeds_total = self.buffered_bytes + size_bytes > self._max_total_bytes
        if self._max_total_bytes and (exceeds_share or exceeds_total):
            raise Overloaded("too many large bodies at once", retry_after_s=RETRY_AFTER_S)
        self._host_bytes[host] = of_host + size_bytes

    def release(self, host: str, size_bytes: int) -> None:
        self._host_bytes[host] -= size_bytes
        if not self._host_bytes[host]:
            del self._host_bytes[host]


class _Reservation:
    """What one call has reserved of the budget."""

    def __init__(self, reader: BodyReader, host: str) -> None:
        self._reader = reader
        self._host = host
        self._reserved_bytes = 0

    def grow(self, size_bytes: int) -> None:
        """Reserves for a body of `size_bytes`, known or announced. Raises `Overloaded`."""
        if size_bytes > max(self._reserved_bytes, UNCOUNTED_BODY_BYTES):
            self._reader.reserve(self._host, size_bytes - self._reserved_bytes)
            self._reserved_bytes = size_bytes

    def release(self) -> None:
        if self._reserved_bytes:
            self._reader.release(self._host, self._reserved_bytes)


def _too_large(max_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body may have at most {max_bytes} bytes")
