"""The whole system on one machine: Postgres, central and the sidecar, as processes of ours.

    async with System(Options()) as system:
        ...  # everything answers; system.ready says where

A process belongs to the run if its environment says so (dev.processes), whether it was started here
or by a user who had killed the first one. Nothing is restarted here, and the end of one process
does not end the system.

    start   Postgres, Texera's tables and the sample world, central's migrations, central, sidecar
    end     sidecar (delivers what it holds), central, Postgres, the run's folder
    killed  the cleanup process, started first, ends the rest and removes the folder
"""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from types import TracebackType
from typing import Any, Self

import aiohttp
import asyncpg

from dev.latency import Forward
from dev.polling import Probe, accepts_connections
from dev.ports import HOST, Ports
from dev.postgres import create_cluster, tcp_address, with_address, with_login
from dev.postgres_user import postgres_user, temporary_folder
from dev.problems import DevProblem, StartFailed
from dev.processes import ROOT, ManagedProcess, RunFolder, tail
from dev.ready import Ready, describe
from dev.texera import create_owner, create_world, refuse_unless_empty
from dev.tokens import JWT_SECRET

CENTRAL_ROLE = "cu_metadata_central"
MIGRATION_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = 5.0
POLL_S = 0.02
# No run is closed within five minutes of its sidecar's end; the last renewal may be 20 s old then.
LEASE_S = 330

# The signals that end each role, and how long each may take before the next is sent.
STOP_SEQUENCES: dict[str, list[tuple[signal.Signals, float]]] = {
    "sidecar": [(signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)],  # it drains for 10 s at most
    "central": [(signal.SIGTERM, 25.0), (signal.SIGKILL, 5.0)],  # and central for 20 s
    "latency": [(signal.SIGKILL, 5.0)],  # it holds nothing worth keeping
    "postgres": [(signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)],
}


@dataclass(frozen=True)
class Options:
    """The options of `dev up`."""

    port_base: int = 7070
    rtt_ms: float = 0.0
    """Added between the sidecar and central, and between central and Postgres."""
    database_url: str | None = None
    """An empty database of the user's own, instead of an embedded Postgres; its owner's URL."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """More SIDECAR_* and CENTRAL_* settings, for the services they name."""


class System:
    """A running system. An async context manager: all of it answers within the block."""

    def __init__(
        self, options: Options | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.options = Options() if options is None else options
        self.ports = Ports(self.options.port_base)
        self.processes: dict[str, ManagedProcess] = {}
        self.database_url = ""
        self._environ = environ
        self._cleanup: asyncio.subprocess.Process | None = None

    @property
    def ready(self) -> Ready:
        """The contents of the ready file."""
        return describe(self.ports, self.database_url, self.processes)

    async def __aenter__(self) -> Self:
        embedded = self.options.database_url is None
        self.ports.check_free(postgres=embedded, latency=self.options.rtt_ms > 0)
        parent = temporary_folder(postgres_user()) if embedded else Path(gettempdir())
        self.folder = RunFolder.create(parent)
        try:
            await self._start()
        except BaseException:
            await uninterrupted(self._end())
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await uninterrupted(self._end())

    # Start ------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self._cleanup = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dev", "cleanup", "--run-dir", str(self.folder.path)),
            stdin=asyncio.subprocess.PIPE,
            cwd=ROOT,
            start_new_session=True,
        )
        if self.options.database_url is None:
            self.database_url = await self._start_postgres()
        else:
            self.database_url = self.options.database_url
        await self._create_world()
        central_database_url = with_login(
            self.database_url, CENTRAL_ROLE, secrets.token_urlsafe(18)
        )
        await self._migrate(central_database_url)
        central_url = f"http://{HOST}:{self.ports.central}"
        if self.options.rtt_ms > 0:
            await self._start_latency()
            central_url = f"http://{HOST}:{self.ports.delayed_central}"
            central_database_url = with_address(
                central_database_url, HOST, self.ports.delayed_postgres
            )
        await self._start_services(central_url, central_database_url)

    async def _start_postgres(self) -> str:
        cluster = create_cluster(self.folder.postgres, self.ports.postgres, self._environ)
        postgres = await self._start_process("postgres", cluster.argv, {})

        async def is_accepting() -> bool:
            return cluster.is_ready(postgres.pid)

        await postgres.wait_until(is_accepting)
        await create_owner(cluster)
        return cluster.url()

    async def _create_world(self) -> None:
        try:
            connection = await asyncpg.connect(self.database_url)
        except (OSError, asyncpg.PostgresError, ValueError) as error:
            raise DevProblem(f"The database cannot be reached: {error}") from error
        try:
            await refuse_unless_empty(connection)
            await create_world(connection)
        finally:
            await connection.close()

    async def _migrate(self, central_database_url: str) -> None:
        settings = {
            "CENTRAL_OWNER_DATABASE_URL": self.database_url,
            "CENTRAL_DATABASE_URL": central_database_url,
        }
        argv = [sys.executable, "-m", "central", "migrate"]
        migration = await self._start_process("migrate", argv, settings)
        del self.processes["migrate"]  # it is not part of the running system
        try:
            exit_code = await asyncio.wait_for(migration.process.wait(), MIGRATION_TIMEOUT_S)
        except TimeoutError:
            raise migration.start_failure("took too long") from None
        if exit_code != 0:
            raise StartFailed("Central's migrations failed.", tail(migration.log))

    async def _start_latency(self) -> None:
        database_host, database_port = tcp_address(self.database_url)
        forwards = [
            Forward(self.ports.delayed_central, HOST, self.ports.central),
            Forward(self.ports.delayed_postgres, database_host, database_port),
        ]
        argv = [sys.executable, "-m", "dev", "latency", "--rtt-ms", str(self.options.rtt_ms)]
        argv += [f"--forward={forward}" for forward in forwards]
        latency = await self._start_process("latency", argv, {})
        for forward in forwards:
            await latency.wait_until(accepts_connections(forward.port))

    async def _start_services(self, central_url: str, central_database_url: str) -> None:
        central_settings = {
            "CENTRAL_DATABASE_URL": central_database_url,
            "CENTRAL_JWT_SECRET": JWT_SECRET,
            "CENTRAL_LISTEN": f"{HOST}:{self.ports.central}",
            "CENTRAL_OPS_LISTEN": f"{HOST}:{self.ports.central_ops}",
            "CENTRAL_LEASE_S": str(LEASE_S),
            "CENTRAL_RUN_TOKEN_KEYS": f"dev:{secrets.token_urlsafe(32)}",
        }
        sidecar_settings = {
            "SIDECAR_CENTRAL_URL": central_url,
            "SIDECAR_LISTEN": f"{HOST}:{self.ports.sidecar}",
            "SIDECAR_OPS_LISTEN": f"{HOST}:{self.ports.sidecar_ops}",
            "SIDECAR_SPOOL_DIR": str(self.folder.spool),
        }
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            central = await self._start_service("central", central_settings)
            await central.wait_until(_is_ready(session, self.ports.central_ops))
            sidecar = await self._start_service("sidecar", sidecar_settings)
            await sidecar.wait_until(_is_ready(session, self.ports.sidecar_ops))
            ready = self.ready
            workflow_id, unit_id = ready["workflow_id"], ready["computing_unit_id"]
            latest = f"/v1/workflows/{workflow_id}/executions/latest?computing_unit_id={unit_id}"
            token = ready["users"]["owner"]["token"]
            await sidecar.wait_until(_serves(session, ready["sidecar"] + latest, token))

    async def _start_service(self, role: str, settings: Mapping[str, str]) -> ManagedProcess:
        prefix = f"{role.upper()}_"
        more = {k: v for k, v in self.options.settings.items() if k.startswith(prefix)}
        argv = [sys.executable, "-m", role, "serve"]
        return await self._start_process(role, argv, {**settings, **more})

    async def _start_process(
        self, role: str, argv: list[str], settings: Mapping[str, str]
    ) -> ManagedProcess:
        process = await ManagedProcess.start(self.folder, role, argv, settings, self._environ)
        self.processes[role] = process
        return process

    # End --------------------------------------------------------------------------------------

    async def _end(self) -> None:
        for role in STOP_SEQUENCES:
            await self._end_role(role)
        self.folder.signal(signal.SIGKILL)  # such as a migration that was running
        self.folder.remove()
        if self._cleanup is not None and self._cleanup.stdin is not None:
            self._cleanup.stdin.close()
            await self._cleanup.wait()

    async def _end_role(self, role: str) -> None:
        for signal_number, timeout_s in STOP_SEQUENCES[role]:
            for pid in self._live_pids(role):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal_number)
                    os.kill(pid, signal.SIGCONT)  # a stopped process handles no signal
            deadline = time.monotonic() + timeout_s
            while pids := self._live_pids(role):
                if time.monotonic() > deadline:
                    break
                await self._wait_for_end(pids, deadline)
            else:
                return

    async def _wait_for_end(self, pids: list[int], deadline: float) -> None:
        """To look at these costs little; to look for others, as `_live_pids`, all of /proc."""
        await asyncio.sleep(POLL_S)
        while any(map(self.folder.owns, pids)) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)

    def _live_pids(self, role: str) -> list[int]:
        pids = set(self.folder.pids(role))
        process = self.processes.get(role)
        if process is not None and not process.has_ended:
            pids.add(process.pid)
        return sorted(pids)


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Finish the work even if this task is cancelled: otherwise processes would be left behind."""
    task = asyncio.create_task(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()


def _is_ready(session: aiohttp.ClientSession, ops_port: int) -> Probe:
    async def probe() -> bool:
        return await _http_status(session, f"http://{HOST}:{ops_port}/readyz") == 200

    return probe


def _serves(session: aiohttp.ClientSession, url: str, token: str) -> Probe:
    """Whether a user's call gets less than a 5xx, so that everything behind it works too."""

    async def probe() -> bool:
        status = await _http_status(session, url, {"Authorization": f"Bearer {token}"})
        return status is not None and status < 500

    return probe


async def _http_status(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str] | None = None
) -> int | None:
    """The status of a GET; None if there is no response."""
    try:
        async with session.get(url, headers=headers) as response:
            return response.status
    except (aiohttp.ClientError, TimeoutError):
        return None
