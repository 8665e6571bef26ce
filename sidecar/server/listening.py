"""The local API's listeners, with the front door before them or without."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from kit.http.connection_limits import ConnectionLimiter, CountedConnection
from sidecar.server.protocol import DISABLED_TIMEOUT_S, ProtocolFactory


@asynccontextmanager
async def listening(
    app: web.Application,
    door: ProtocolFactory | None,
    address: tuple[str, int],
    unix_socket: Path | None,
    *,
    shutdown_timeout_s: float,
    counted: ConnectionLimiter | None = None,
) -> AsyncIterator[None]:
    """Serves `app` for the block; `door` None leaves every request to aiohttp."""
    async with (
        connections(
            app, door, shutdown_timeout_s=shutdown_timeout_s, counted=counted
        ) as connection,
        AsyncExitStack() as stack,
    ):
        loop = asyncio.get_running_loop()
        servers = [await loop.create_server(connection, *address)]
        if unix_socket is not None:
            _remove(unix_socket)
            servers.append(await loop.create_unix_server(connection, unix_socket))
        for server in servers:
            stack.callback(server.close)
        yield


@asynccontextmanager
async def connections(
    app: web.Application,
    door: ProtocolFactory | None,
    *,
    shutdown_timeout_s: float,
    counted: ConnectionLimiter | None = None,
) -> AsyncIterator[Callable[[], asyncio.BaseProtocol]]:
    """What makes the protocol of each new connection to `app`."""
    counted = ConnectionLimiter() if counted is None else counted
    if door is None:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=shutdown_timeout_s)
        async with _set_up(runner) as server:
            yield lambda: CountedConnection(counted, server)
        return
    runner = web.AppRunner(
        app,
        access_log_class=door.access_log_hook(),
        keepalive_timeout=DISABLED_TIMEOUT_S,
        shutdown_timeout=shutdown_timeout_s,
    )
    async with _set_up(runner) as server:
        door.open(server, counted)
        try:
            yield door
        finally:
            await door.close(timeout_s=shutdown_timeout_s)


@asynccontextmanager
async def _set_up(runner: web.AppRunner) -> AsyncIterator[web.Server]:
    try:
        await runner.setup()
        assert runner.server is not None  # noqa: S101 (set up just now)
        yield runner.server
    finally:
        await runner.cleanup()


def _remove(unix_socket: Path) -> None:
    """What a killed predecessor left would be in the way."""
    unix_socket.unlink(missing_ok=True)
