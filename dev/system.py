"""The whole system on one machine: Postgres, central and the sidecar, as processes of ours.

    async with System(Options()) as system:
        ...  # everything answers; system.ready says where

Truth: a process belongs to the run if its environment says so (dev.run_folder), whether we started
it or somebody else did after killing ours. Nothing is restarted here, and the system does not end
because one of its processes did.

Start: Postgres, Texera's tables and the sample world, central's migrations, central, the sidecar.
End: the reverse, so that the sidecar can deliver what it holds; then the folder is removed. Should
this process be killed, its children end with it (dev.tether) and the reaper removes the rest.
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

from dev.account import postgres_account
from dev.child import ROOT, Child, tail
from dev.database_url import tcp_address, with_address, with_login
from dev.latency import Forward
from dev.ports import HOST, Ports
from dev.postgres import create_cluster, create_owner
from dev.probes import is_ready, listens, serves, wait_for
from dev.problems import DevProblem, StartFailed
from dev.ready import Ready, describe
from dev.run_folder import RunFolder, temporary_folder
from dev.texera import create_world, refuse_unless_empty
from dev.tokens import JWT_SECRET

CENTRAL_ROLE = "cu_metadata_central"
MIGRATION_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = 5.0
POLL_S = 0.02
# Nothing is closed within five minutes of a sidecar's end; its last renewal may be 20 s old then.
LEASE_S = 330

# How each role is asked to end, and for how long before the next, less patient way.
ENDINGS: dict[str, list[tuple[signal.Signals, float]]] = {
    "sidecar": [(signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)],  # it drains for 10 s at most
    "central": [(signal.SIGTERM, 25.0), (signal.SIGKILL, 5.0)],  # and central for 20 s
    "latency": [(signal.SIGKILL, 5.0)],  # it holds nothing worth keeping
    "postgres": [(signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)],
}


@dataclass(frozen=True)
class Options:
    """What `dev up` may be told."""

    port_base: int = 7070
    rtt_ms: float = 0.0
    """Added between the sidecar and central, and between central and Postgres."""
    database_url: str | None = None
    """An empty database of the user's own, instead of an embedded Postgres; its owner's URL."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """More SIDECAR_* and CENTRAL_* settings, for the services they name."""


class System:
    """A running system. An async context manager: entered, all of it answers; left, all is gone."""

    def __init__(
        self, options: Options | None = None, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.options = Options() if options is None else options
        self.ports = Ports(self.options.port_base)
        self.children: dict[str, Child] = {}
        self.database_url = ""
        self._environ = environ
        self._reaper: asyncio.subprocess.Process | None = None

    @property
    def ready(self) -> Ready:
        """The contents of the ready file."""
        return describe(self.ports, self.database_url, self.children)

    async def __aenter__(self) -> Self:
        embedded = self.options.database_url is None
        self.ports.refuse_taken(postgres=embedded, latency=self.options.rtt_ms > 0)
        parent = temporary_folder(postgres_account()) if embedded else Path(gettempdir())
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
        self._reaper = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dev", "reaper", "--run-dir", str(self.folder.path)),
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
            central_url = f"http://{HOST}:{self.ports.slow_central}"
            central_database_url = with_address(
                central_database_url, HOST, self.ports.slow_postgres
            )
        await self._start_services(central_url, central_database_url)

    async def _start_postgres(self) -> str:
        cluster = create_cluster(self.folder.postgres, self.ports.postgres, self._environ)
        postgres = await self._start_child("postgres", cluster.argv, {}, signal.SIGQUIT)

        async def accepts_connections() -> bool:
            return cluster.is_ready(postgres.pid)

        await wait_for(postgres, accepts_connections)
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
        migration = await self._start_child("migrate", argv, settings)
        del self.children["migrate"]  # it is no part of what runs
        try:
            exit_code = await asyncio.wait_for(migration.process.wait(), MIGRATION_TIMEOUT_S)
        except TimeoutError:
            raise migration.start_failed("took too long") from None
        if exit_code != 0:
            raise StartFailed("Central's migrations failed.", tail(migration.log))

    async def _start_latency(self) -> None:
        database_host, database_port = tcp_address(self.database_url)
        forwards = [
            Forward(self.ports.slow_central, HOST, self.ports.central),
            Forward(self.ports.slow_postgres, database_host, database_port),
        ]
        argv = [sys.executable, "-m", "dev", "latency", "--rtt-ms", str(self.options.rtt_ms)]
        argv += [f"--forward={forward}" for forward in forwards]
        latency = await self._start_child("latency", argv, {})
        for forward in forwards:
            await wait_for(latency, listens(forward.port))

    async def _start_services(self, central_url: str, central_database_url: str) -> None:
        central_settings = {
            "CENTRAL_DATABASE_URL": central_database_url,
            "CENTRAL_JWT_SECRET": JWT_SECRET,
            "CENTRAL_LISTEN": f"{HOST}:{self.ports.central}",
            "CENTRAL_OPS_LISTEN": f"{HOST}:{self.ports.central_ops}",
            "CENTRAL_LEASE_S": str(LEASE_S),
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
            await wait_for(central, is_ready(session, self.ports.central_ops))
            sidecar = await self._start_service("sidecar", sidecar_settings)
            await wait_for(sidecar, is_ready(session, self.ports.sidecar_ops))
            ready = self.ready
            workflow_id, unit_id = ready["workflow_id"], ready["computing_unit_id"]
            latest = f"/v1/workflows/{workflow_id}/executions/latest?computing_unit_id={unit_id}"
            token = ready["users"]["owner"]["token"]
            await wait_for(sidecar, serves(session, ready["sidecar"] + latest, token))

    async def _start_service(self, role: str, settings: Mapping[str, str]) -> Child:
        prefix = f"{role.upper()}_"
        asked = {k: v for k, v in self.options.settings.items() if k.startswith(prefix)}
        argv = [sys.executable, "-m", role, "serve"]
        return await self._start_child(role, argv, {**settings, **asked})

    async def _start_child(
        self,
        role: str,
        argv: list[str],
        settings: Mapping[str, str],
        death_signal: int = signal.SIGKILL,
    ) -> Child:
        env = self.folder.environment(role, settings, self._environ)
        log = self.folder.log(role)
        self.children[role] = await Child.start(role, argv, env, log, death_signal)
        return self.children[role]

    # End --------------------------------------------------------------------------------------

    async def _end(self) -> None:
        for role in ENDINGS:
            await self._end_role(role)
        self.folder.signal(signal.SIGKILL)  # a migration that was under way
        self.folder.remove()
        if self._reaper is not None and self._reaper.stdin is not None:
            self._reaper.stdin.close()
            await self._reaper.wait()

    async def _end_role(self, role: str) -> None:
        for signal_number, patience_s in ENDINGS[role]:
            for pid in self._living(role):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal_number)
                    os.kill(pid, signal.SIGCONT)  # a stopped process hears no signal
            deadline = time.monotonic() + patience_s
            while self._living(role):
                if time.monotonic() > deadline:
                    break
                await asyncio.sleep(POLL_S)
            else:
                return

    def _living(self, role: str) -> list[int]:
        pids = set(self.folder.pids(role))
        child = self.children.get(role)
        if child is not None and not child.has_ended:
            pids.add(child.pid)
        return sorted(pids)


async def uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Finish the work even if this task is cancelled: half an end would leave processes behind."""
    task = asyncio.create_task(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
