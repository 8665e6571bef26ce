"""Reads request bodies, of which only so many bytes are buffered at once.

A body is buffered from its first byte until its call is answered. Bodies up to
`UNCOUNTED_BODY_BYTES` are not counted: their number is bounded by the number of connections.
Larger ones share a budget (503 `overloaded` beyond it), and no owner holds more than its share of
it. What has arrived is charged, never what is announced, and a body is read only once its head has
been verified, because the head says who the owner is: announcing or inventing a body takes nothing
from others. A body has to arrive within a timeout and at a minimum rate, so that slow senders
cannot keep the budget taken.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from kit.http.connection_limits import ConnectionLimiter
from kit.http.large_decoder import LargeDecoder
from kit.http.problems import (
    BodyIncomplete,
    BodyTooLarge,
    BodyTooSlow,
    Overloaded,
    UnsupportedMediaType,
)

UNCOUNTED_BODY_BYTES = 16 * 1024
"""Ordinary calls have a few hundred bytes."""
READ_TIMEOUT_S = 30.0
GRACE_S = 5.0
"""Without a minimum rate: a connection that loses packets waits for seconds."""
MIN_BYTES_PER_S = 64 * 1024
"""Far below any link of a cluster: 4 MiB at this rate would take longer than the timeout."""
RETRY_AFTER_S = 1.0


class BodyReader:
    """At most `max_total_bytes` of counted bodies are buffered; 0 is no limit.

    `max_share` is the part of it that one owner may hold, or one body if that is more.
    """

    def __init__(
        self,
        connections: ConnectionLimiter | None = None,
        *,
        max_total_bytes: int = 0,
        max_share: float = 1.0,
        read_timeout_s: float = READ_TIMEOUT_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self.connections = connections or ConnectionLimiter()
        self.large_decoder = LargeDecoder()
        self.read_timeout_s = read_timeout_s
        self.grace_s = grace_s
        self.buffered_bytes = 0
        self._max_total_bytes = max_total_bytes
        self._max_owner_bytes = max_share * max_total_bytes
        self._owner_bytes: dict[Hashable, int] = {}

    @asynccontextmanager
    async def body(self, request: web.Request, max_bytes: int) -> AsyncIterator["RequestBody"]:
        """The body, to be read within the block, at whose end its bytes are released.

        Raises `BodyTooLarge` for an announced length, and `UnsupportedMediaType`.
        """
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity") != "identity":
            raise UnsupportedMediaType("Content-Encoding: expected none")
        body = RequestBody(self, request, max_bytes)
        try:
            yield body
        finally:
            body.release()

    def reserve(self, owner: Hashable, size_bytes: int, held_bytes: int = 0) -> None:
        """Reserves for a body that holds `held_bytes` already. Raises `Overloaded`.

        An owner's only body may exceed the owner's share.
        """
        of_owner = self._owner_bytes.get(owner, 0)
        if self._max_total_bytes:
            if of_owner > held_bytes and of_owner + size_bytes > self._max_owner_bytes:
                raise Overloaded(
                    "too many large bodies of this caller at once", retry_after_s=RETRY_AFTER_S
                )
            if self.buffered_bytes + size_bytes > self._max_total_bytes:
                raise Overloaded("too many large bodies at once", retry_after_s=RETRY_AFTER_S)
        self._owner_bytes[owner] = of_owner + size_bytes
        self.buffered_bytes += size_bytes

    def release(self, owner: Hashable, size_bytes: int) -> None:
        self.buffered_bytes -= size_bytes
        self._owner_bytes[owner] -= size_bytes
        if not self._owner_bytes[owner]:
            del self._owner_bytes[owner]


class RequestBody:
    """The body of one request, and what it holds of the budget."""

    __slots__ = ("_busy", "_held_bytes", "_max_bytes", "_owner", "_reader", "_request", "raw")

    def __init__(self, reader: BodyReader, request: web.Request, max_bytes: int) -> None:
        self.raw = b""
        """Empty until it is read."""
        self._reader = reader
        self._request = request
        self._owner: Hashable = None
        self._held_bytes = 0
        self._busy = False
        self.limit(max_bytes)

    def limit(self, max_bytes: int) -> None:
        """Raises `BodyTooLarge` if the announced length is more."""
        self._max_bytes = max_bytes
        self._check_size(self._request.content_length or 0)

    def may_exceed(self, size_bytes: int) -> bool:
        """Whether the request has a body that may be larger, as far as the head says."""
        length = self._request.content_length
        return self._request.can_read_body and (length is None or length > size_bytes)

    async def read(self, owner: Hashable) -> bytes:
        """The whole body, charged to `owner`; from here on the request's connection is busy.

        Raises `BodyTooLarge`, `BodyTooSlow`, `BodyIncomplete` and `Overloaded`.
        """
        self._owner = owner
        if self._request.can_read_body:
            try:
                self.raw = await self._receive()
            except TimeoutError as error:
                raise BodyTooSlow(
                    f"the body has to arrive within {self._reader.read_timeout_s:g} s, and"
                    f" with at least {MIN_BYTES_PER_S // 1024} KiB per second"
                ) from error
            except (OSError, HttpProcessingError, web.RequestPayloadError) as error:
                raise BodyIncomplete("the body ended before its announced end") from error
        self._busy = self._reader.connections.mark_busy(self._request.transport)
        return self.raw

    def release(self) -> None:
        if self._held_bytes:
            self._reader.release(self._owner, self._held_bytes)
        if self._busy:
            self._reader.connections.mark_idle(self._request.transport)

    async def _receive(self) -> bytes:
        content, reader = self._request.content, self._reader
        if content.is_eof():  # it came with its head, as nearly all do
            whole = content.read_nowait(-1)
            self._charge(len(whole))
            return whole
        reader.connections.want_body(self._request.transport)
        chunks = bytearray()
        started_at = asyncio.get_running_loop().time()
        async with asyncio.timeout(min(reader.grace_s, reader.read_timeout_s)) as deadline:
            async for chunk in content.iter_any():
                chunks += chunk
                self._charge(len(chunks))
                allowed_s = reader.grace_s + len(chunks) / MIN_BYTES_PER_S
                deadline.reschedule(started_at + min(allowed_s, reader.read_timeout_s))
        return bytes(chunks)

    def _charge(self, size_bytes: int) -> None:
        self._check_size(size_bytes)
        if size_bytes > max(self._held_bytes, UNCOUNTED_BODY_BYTES):
            self._reader.reserve(self._owner, size_bytes - self._held_bytes, self._held_bytes)
            self._held_bytes = size_bytes

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            raise BodyTooLarge(f"the body may have at most {self._max_bytes} bytes")
