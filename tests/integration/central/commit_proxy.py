"""A TCP proxy before Postgres that cuts one connection around a commit: its outcome is unknown.

`cut_at` names the bytes of the message that commits; the next connection that sends them is cut.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import StrEnum

from dev.latency import reset
from dev.ports import HOST
from dev.postgres import tcp_address, with_address

CHUNK_BYTES = 65_536


class Cut(StrEnum):
    """When central's connection is reset."""

    BEFORE_COMMIT = "before-commit"
    """The message is dropped and the server's connection is reset as well."""
    DURING_COMMIT = "during-commit"
    """The server has the message; its response is not waited for."""
    AFTER_COMMIT = "after-commit"
    """The server's response has arrived at the proxy and is dropped."""


class CommitProxy:
    """Forwards everything until the message that `cut_at` names."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._upstream = tcp_address(database_url)
        self._message: bytes | None = None
        self._cut = Cut.BEFORE_COMMIT
        self._port = 0
        self.has_cut = asyncio.Event()

    @property
    def url(self) -> str:
        """The database through this proxy."""
        return with_address(self._database_url, HOST, self._port)

    def cut_at(self, message: bytes, cut: Cut) -> None:
        self._message, self._cut = message, cut

    async def forward(self, near: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        far, upstream = await asyncio.open_connection(*self._upstream)
        is_committing = asyncio.Event()
        responses = asyncio.create_task(self._respond(far, writer, is_committing))
        try:
            with suppress(OSError):
                while chunk := await near.read(CHUNK_BYTES):
                    if self._message is not None and self._message in chunk:
                        self._message = None
                        await self._cut_around(chunk, writer, upstream, is_committing)
                    else:
                        upstream.write(chunk)
        finally:
            upstream.close()
            responses.cancel()
            writer.close()

    async def _cut_around(
        self,
        chunk: bytes,
        writer: asyncio.StreamWriter,
        upstream: asyncio.StreamWriter,
        is_committing: asyncio.Event,
    ) -> None:
        if self._cut is Cut.BEFORE_COMMIT:
            reset(upstream.transport)
        else:
            is_committing.set()
            upstream.write(chunk)
            await upstream.drain()
        if self._cut is not Cut.AFTER_COMMIT:  # else `_respond` cuts
            reset(writer.transport)
            self.has_cut.set()

    async def _respond(
        self, far: asyncio.StreamReader, writer: asyncio.StreamWriter, is_committing: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while chunk := await far.read(CHUNK_BYTES):
                if not is_committing.is_set():
                    writer.write(chunk)
                elif not self.has_cut.is_set():
                    reset(writer.transport)
                    self.has_cut.set()
        writer.close()  # the server has ended the connection


@asynccontextmanager
async def commit_proxy(database_url: str) -> AsyncIterator[CommitProxy]:
    """A proxy that runs while the block does."""
    proxy = CommitProxy(database_url)
    server = await asyncio.start_server(proxy.forward, HOST, 0)
    async with server:
        proxy._port = server.sockets[0].getsockname()[1]
        yield proxy
