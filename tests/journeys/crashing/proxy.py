"""A TCP proxy between the sidecar and central that fails in the ways a network does."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import TypeAlias

from dev.latency import reset
from dev.ports import HOST
from tests.journeys.crashing.processes import Central

CHUNK_BYTES = 65_536
LINGER_S = 2.0  # for the response to a request whose sender has gone
BACKLOG = 1  # what nobody accepts fills it at once, and the kernel drops all further knocking

Stream: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Cut(StrEnum):
    """When a connection is reset."""

    IN_REQUEST = "in-request"
    """A part of what was sent goes on."""
    AFTER_REQUEST = "after-request"
    """All of it goes on; the response is not waited for."""
    BEFORE_RESPONSE = "before-response"
    """The response has come, and does not go on."""


class Proxy:
    """Forwards to the first upstream; others get the same bytes, and their responses go nowhere.

    While it is silent nothing passes and nothing is lost: what was sent comes late, as through a
    network that drops packets for a while, perhaps when its sender has long given up.
    """

    def __init__(self, upstream_ports: tuple[int, ...], chance: random.Random) -> None:
        self._upstream_ports = upstream_ports
        self._chance = chance
        self._passing = asyncio.Event()
        self._passing.set()
        self._listener = socket.create_server((HOST, 0), backlog=BACKLOG)
        self._listener.setblocking(False)
        self.url = f"http://{HOST}:{self._listener.getsockname()[1]}"
        self.cut: Cut | None = None
        self.cut_share = 0.0
        """How many of the requests, or of the responses, meet the cut."""
        self.cut_count = 0

    def silence(self) -> None:
        self._passing.clear()

    def heal(self) -> None:
        self._passing.set()

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        with self._listener:
            async with asyncio.TaskGroup() as connections:
                while True:
                    connection, _ = await loop.sock_accept(self._listener)
                    connections.create_task(self._forward(connection))
                    await self._passing.wait()

    async def _forward(self, connection: socket.socket) -> None:
        near = await asyncio.open_connection(sock=connection)
        far: list[Stream] = []
        try:
            for port in self._upstream_ports:
                far.append(await asyncio.open_connection(HOST, port))
            async with asyncio.TaskGroup() as responses:
                for number, (reader, _) in enumerate(far):
                    responses.create_task(self._respond(reader, None if number else near[1]))
                await self._request(near, [writer for _, writer in far])
        except OSError:
            reset(near[1].transport)
        finally:
            for _, writer in (near, *far):
                writer.close()

    async def _request(self, near: Stream, far: list[asyncio.StreamWriter]) -> None:
        with suppress(OSError):
            while chunk := await near[0].read(CHUNK_BYTES):
                await self._passing.wait()
                cut = self._drawn(Cut.IN_REQUEST, Cut.AFTER_REQUEST)
                if cut is Cut.IN_REQUEST:
                    chunk = chunk[: self._chance.randrange(len(chunk))]
                for upstream in far:
                    upstream.write(chunk)
                if cut is not None:
                    reset(near[1].transport)
        await self._passing.wait()
        for upstream in far:
            asyncio.get_running_loop().call_later(LINGER_S, upstream.close)

    async def _respond(
        self, reader: asyncio.StreamReader, near: asyncio.StreamWriter | None
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK_BYTES):
                await self._passing.wait()
                if near is not None and self._drawn(Cut.BEFORE_RESPONSE):
                    reset(near.transport)
                elif near is not None:
                    near.write(chunk)
        if near is not None:
            near.close()

    def _drawn(self, *cuts: Cut) -> Cut | None:
        if self.cut not in cuts or self._chance.random() >= self.cut_share:
            return None
        self.cut_count += 1
        return self.cut


@asynccontextmanager
async def proxy_to(*centrals: Central, chance: random.Random) -> AsyncIterator[Proxy]:
    """A proxy that runs while the block does."""
    proxy = Proxy(tuple(central.ports.central for central in centrals), chance)
    running = asyncio.create_task(proxy.run())
    try:
        yield proxy
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
