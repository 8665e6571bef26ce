"""The database a round trip away, as it is in a cluster."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from dev.bench.bench_system import Bench
from dev.child import Child
from dev.database_url import tcp_address, with_address
from dev.latency import Forward
from dev.ports import HOST
from dev.probes import listens, wait_for

FAR_DATABASE_OFFSET = 32
RTT_MS = 1


@asynccontextmanager
async def far_connection(
    bench: Bench,
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection to the database with a round trip added."""
    folder, port = bench.system.folder, bench.system.ports.base + FAR_DATABASE_OFFSET
    url = bench.system.ready["database"]
    argv = [sys.executable, "-m", "dev", "latency", "--rtt-ms", str(RTT_MS)]
    argv.append(f"--forward={Forward(port, *tcp_address(url))}")
    env = folder.environment("far", {}, os.environ)
    forwarder = await Child.start("far", argv, env, folder.log("far"), signal.SIGKILL)
    try:
        await wait_for(forwarder, listens(port))
        connection = await asyncpg.connect(with_address(url, HOST, port))
        try:
            yield connection
        finally:
            await connection.close()
    finally:
        forwarder.process.kill()
        await forwarder.process.wait()
