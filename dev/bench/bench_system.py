"""The system under measurement, with the connections that every measurement holds open."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count

import asyncpg

from dev.bench.baseline_server import DATABASE_URL
from dev.bench.http_line import Answer, HttpLine
from dev.child import Child
from dev.metadata_api import SidecarBackend
from dev.metadata_backend import NewExecution
from dev.ports import HOST
from dev.probes import listens, wait_for
from dev.problems import DevProblem
from dev.run_folder import RunFolder
from dev.system import System

BASELINE_OFFSET = 30
"""The baseline server's port, from the system's first (dev.ports uses up to 22)."""


@dataclass
class Bench:
    """The sidecar's line, the baseline's, a direct connection, and the settings of one run."""

    system: System
    sidecar: HttpLine
    baseline: HttpLine
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
    """Starts the baseline server beside the running system; ends it with the block."""
    ready = system.ready
    token = ready["users"]["owner"]["token"]
    port = system.ports.base + BASELINE_OFFSET
    server = await start_baseline(system.folder, port, ready["database"])
    try:
        await wait_for(server, listens(port))
        direct = await asyncpg.connect(ready["database"])
        try:
            async with (
                HttpLine(ready["sidecar"], token) as sidecar,
                HttpLine(f"http://{HOST}:{port}") as baseline,
                SidecarBackend(ready["sidecar"], token) as backend,
            ):
                yield Bench(
                    system, sidecar, baseline, server.process.pid, direct, backend, count(1)
                )
        finally:
            await direct.close()
    finally:
        if not server.has_ended:
            server.process.terminate()
        await server.process.wait()


async def start_baseline(folder: RunFolder, port: int, database_url: str) -> Child:
    env = folder.environment("baseline", {DATABASE_URL: database_url}, os.environ)
    argv = [sys.executable, "-m", "dev.bench.baseline_server", "--port", str(port)]
    return await Child.start("baseline", argv, env, folder.log("baseline"), signal.SIGKILL)


def expect(answer: Answer, *statuses: int) -> Answer:
    """The answer, if its status is one of these."""
    if answer.status not in statuses:
        raise DevProblem(f"A measured call was answered {answer.status}: {answer.body[:200]!r}")
    return answer
