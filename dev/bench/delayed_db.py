"""The database with a network round trip before it, as in a cluster."""

import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from dev.bench.bench_system import Bench
from dev.latency import Forward
from dev.polling import accepts_connections
from dev.ports import HOST
from dev.postgres import tcp_address, with_address
from dev.processes import ManagedProcess

DELAYED_DATABASE_OFFSET = 32
RTT_MS = 1


@asynccontextmanager
async def delayed_connection(
    bench: Bench,
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to the database with a round trip added."""
    folder, port = bench.system.folder, bench.system.ports.base + DELAYED_DATABASE_OFFSET
    url = bench.system.ready["database"]
    argv = [sys.executable, "-m", "dev", "latency", "--rtt-ms", str(RTT_MS)]
    argv.append(f"--forward={Forward(port, *tcp_address(url))}")
    forwarder = await ManagedProcess.start(folder, "delayed-db", argv, {})
    try:
        await forwarder.wait_until(accepts_connections(port))
        connection = await asyncpg.connect(with_address(url, HOST, port))
        try:
            yield connection
        finally:
            await connection.close()
    finally:
        await forwarder.terminate(signal.SIGKILL)
