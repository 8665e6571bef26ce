"""Two Postgres servers: a primary, and a standby that streams from it and may be promoted."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dev.ports import HOST
from dev.postgres import SUPERUSER, Cluster, create_cluster, processes_in, with_address
from dev.postgres_user import postgres_user
from dev.texera import create_owner
from tests.databases import Database, connected, create_template, free_port
from tests.journeys.crashing.processes import POLL_S, READY_TIMEOUT_S, Postgres

STANDBY = "standby"
"""Its name in `synchronous_standby_names`."""
_REPLICATING = """
wal_level = 'replica'
max_wal_senders = 4
"""


@dataclass
class ReplicatedPostgres:
    """A primary and its standby, both running until the primary is killed."""

    primary: Postgres
    standby: Postgres
    database: Database
    """On whichever of the two servers accepts writes: its URLs name both."""
    standby_url: str
    """The database on the standby, for central."""

    async def make_synchronous(self) -> None:
        """From now on a commit is answered once the standby has it on its disk."""
        await _execute(
            self.primary,
            f"alter system set synchronous_standby_names = '{STANDBY}'",
            "select pg_reload_conf()",
        )
        await _until(
            self.primary, "select sync_state = 'sync' from pg_stat_replication", expected=True
        )

    async def catch_up(self) -> None:
        """Waits until the standby has everything that was committed."""
        query = "select pg_current_wal_lsn() <= replay_lsn from pg_stat_replication"
        await _until(self.primary, query, expected=True)

    async def disconnect_standby(self) -> None:
        """From now on nothing reaches the standby."""
        await _execute(
            self.standby, "alter system set primary_conninfo = ''", "select pg_reload_conf()"
        )
        await _until(self.primary, "select count(*) from pg_stat_replication", expected=0)

    async def standby_lacks(self, aggregate: str, table: str) -> bool:
        """Whether the primary shows more than the standby has."""
        seen = []
        for server in (self.primary, self.standby):
            async with connected(server.cluster.superuser_url(self.database.name)) as connection:
                seen.append(await connection.fetchval(f"select {aggregate} from {table}"))  # noqa: S608
        return bool(seen[0] > (seen[1] or 0))

    async def fail_over(self) -> None:
        await self.kill_primary()
        await self.promote_standby()

    async def kill_primary(self) -> None:
        """Kills the primary with all its sessions."""
        await self.primary.process.kill()
        while sessions := processes_in(self.primary.cluster.folder / "data"):
            for pid in sessions:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(POLL_S)

    async def promote_standby(self) -> None:
        await _execute(self.standby, "select pg_promote()")
        await self.standby.until_ready()


@asynccontextmanager
async def replicated_postgres(folder: Path) -> AsyncIterator[ReplicatedPostgres]:
    """Both servers with a database, for the block; replication is asynchronous at first."""
    cluster = create_cluster(folder / "primary", free_port(), os.environ)
    with (cluster.folder / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write(_REPLICATING)
    primary = Postgres(cluster, folder / "primary.log")
    async with primary.running():
        await create_owner(cluster)
        template = await asyncio.to_thread(create_template, cluster, "template_current")
        standby = Postgres(
            await asyncio.to_thread(_copy, cluster, folder / "standby"), folder / "standby.log"
        )
        database = template.database(template.name)
        standby.start()
        try:
            await _until(primary, "select state from pg_stat_replication", expected="streaming")
            servers = cluster, standby.cluster
            yield ReplicatedPostgres(
                primary,
                standby,
                replace(
                    database,
                    owner_url=of_the_writable(database.owner_url, *servers),
                    central_url=of_the_writable(database.central_url, *servers),
                ),
                with_address(database.central_url, HOST, standby.cluster.port),
            )
        finally:
            await standby.crash()


def of_the_writable(url: str, *servers: Cluster) -> str:
    """The same database on whichever of the servers accepts writes."""
    parts = urlsplit(url)
    hosts = ",".join(HOST for _ in servers)
    ports = ",".join(str(server.port) for server in servers)
    return (
        f"{parts.scheme}://{parts.username}:{parts.password}@{parts.path}"
        f"?host={hosts}&port={ports}&target_session_attrs=read-write"
    )


def _copy(primary: Cluster, folder: Path) -> Cluster:
    """A standby of the running primary, not yet started."""
    user = postgres_user()
    folder.mkdir()
    user.take_ownership(folder)
    standby = Cluster(folder, free_port(), primary.owner_password, primary.binaries)
    (folder / "bin").symlink_to(primary.binaries.bin)
    source = f"host={primary.folder} port={primary.port} user={SUPERUSER}"
    copied = user.run(
        [
            str(primary.binaries.bin / "pg_basebackup"),
            f"--dbname={source} application_name={STANDBY}",
            f"--pgdata={folder / 'data'}",
            "--checkpoint=fast",
            "--write-recovery-conf",
            "--no-sync",
        ]
    )
    assert copied.returncode == 0, copied.stderr
    with (folder / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write(f"port = {standby.port}\nunix_socket_directories = '{folder}'\n")
    return standby


async def _execute(server: Postgres, *statements: str) -> None:
    async with connected(server.cluster.superuser_url("postgres")) as connection:
        for statement in statements:
            await connection.execute(statement)


async def _until(server: Postgres, query: str, *, expected: Any) -> None:
    """Waits until the server answers the query so."""
    async with (
        asyncio.timeout(READY_TIMEOUT_S),
        connected(server.cluster.superuser_url("postgres")) as connection,
    ):
        while await connection.fetchval(query) != expected:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
