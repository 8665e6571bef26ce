"""A thin HTTP/1.1 client: one keep-alive connection, one call at a time, nothing else.

It is as little work as a client can do, so that the response time is the server's. Responses
must have a Content-Length, as those of the sidecar and of aiohttp's plain responses do.
"""

import asyncio
import json
import re
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True)
class RawResponse:
    """The status, the raw head and the body."""

    status: int
    head: bytes
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class RawHttpClient(asyncio.Protocol):
    """One connection. An async context manager."""

    def __init__(self, base_url: str, token: str | None = None) -> None:
        address = urlsplit(base_url)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._fixed = f" HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n{authorization}"
        self._received = b""
        self._waiting: asyncio.Future[RawResponse] | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._transport, _ = await self._loop.create_connection(
            lambda: self, self._host, self._port
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._transport.close()

    def request(self, method: str, target: str, body: object = None, headers: str = "") -> bytes:
        """A complete request, for any number of `send` calls."""
        text = b"" if body is None else json.dumps(body).encode()
        if body is not None:
            headers += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n"
        return f"{method} {target}{self._fixed}{headers}\r\n".encode() + text

    async def send(self, request: bytes) -> RawResponse:
        """The response. ConnectionError if the server closes the connection instead."""
        if self._transport.is_closing():  # closed between two requests
            raise ConnectionError("the server closed the connection")
        self._waiting = self._loop.create_future()
        self._transport.write(request)
        return await self._waiting

    # asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_END_OF_HEAD)
        if not end:
            return
        length = _LENGTH.search(head)
        if length is None or len(body) < int(length[1]):
            return
        self._received = b""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(RawResponse(int(head[9:12]), head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("the server closed the connection"))
