"""The system under measurement, with the connections that every measurement holds open."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import asyncpg

from dev.bench.baseline_server import DATABASE_URL
from dev.bench.raw_http_client import RawHttpClient, RawResponse
from dev.metadata_backend import NewExecution
from dev.polling import accepts_connections
from dev.ports import HOST
from dev.problems import DevProblem
from dev.processes import ManagedProcess, RunFolder
from dev.sidecar_backend import SidecarBackend
from dev.system import System

BASELINE_OFFSET = 30
"""The baseline server's port, from the system's first (dev.ports uses up to 22)."""


@dataclass
class Bench:
    """The connections to the sidecar, to the baseline and to the database."""

    system: System
    sidecar: RawHttpClient
    baseline: RawHttpClient
    baseline_pid: int
    direct: "asyncpg.Connection[asyncpg.Record]"
    backend: SidecarBackend
    names: "count[int]"

    async def new_execution(self) -> int:
        ready = self.system.ready
        new = NewExecution(ready["workflow_id"], ready["computing_unit_id"], "bench")
        return await self.backend.create_execution(new)


@asynccontextmanager
async def bench_of(system: System) -> AsyncIterator[Bench]:
    """The running system with a baseline server beside it for the block."""
    ready = system.ready
    token = ready["users"]["owner"]["token"]
    port = system.ports.base + BASELINE_OFFSET
    server = await start_baseline(system.folder, port, ready["database"])
    try:
        await server.wait_until(accepts_connections(port))
        direct = await asyncpg.connect(ready["database"])
        try:
            async with (
                RawHttpClient(ready["sidecar"], token) as sidecar,
                RawHttpClient(f"http://{HOST}:{port}") as baseline,
                SidecarBackend(ready["sidecar"], token) as backend,
            ):
                yield Bench(system, sidecar, baseline, server.pid, direct, backend, count(1))
        finally:
            await direct.close()
    finally:
        await server.terminate()


async def start_baseline(folder: RunFolder, port: int, database_url: str) -> ManagedProcess:
    argv = [sys.executable, "-m", "dev.bench.baseline_server", "--port", str(port)]
    return await ManagedProcess.start(folder, "baseline", argv, {DATABASE_URL: database_url})


def expect(response: RawResponse, *statuses: int) -> RawResponse:
    """The response, if its status is one of these; else DevProblem."""
    if response.status not in statuses:
        raise DevProblem(f"A measured call got {response.status}: {response.body[:200]!r}")
    return response
