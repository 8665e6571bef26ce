"""An embedded Postgres cluster: made by initdb in a folder of its own, started by our own code.

Who may come in: any role with its password over TCP on 127.0.0.1; the superuser without one over
the unix socket, which lies in a folder that is closed to everybody else.

    folder/            owned by the account that runs Postgres, mode 0700; holds the unix socket
    folder/data/       the cluster
    folder/bin         a link to the programs; `python -m dev postgres --run-dir folder` runs them
"""

import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg

from dev.account import postgres_account
from dev.binaries import Binaries, find_binaries
from dev.child import tail
from dev.polling import wait_until
from dev.problems import DevProblem, StartFailed
from dev.tether import tethered

SUPERUSER = "postgres"
OWNER = "texera"
DATABASE = "texera_db"

START_TIMEOUT_S = 30.0  # 0.2 s on an idle machine; a crashed cluster replays its log first
STOP_TIMEOUT_S = 10.0  # SIGINT ends sessions at once and writes a checkpoint

# For tests: never wait for the disk, not even to start writing.
WITHOUT_DISK = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "backend_flush_after": 0,
    "bgwriter_flush_after": 0,
    "checkpoint_flush_after": 0,
    "wal_writer_flush_after": 0,
    "wal_init_zero": "off",
    "wal_recycle": "off",
    "max_wal_size": "256MB",  # tests keep the cluster in memory
}


@dataclass(frozen=True)
class Cluster:
    """A cluster on disk and the ways to reach it."""

    folder: Path
    port: int
    owner_password: str
    binaries: Binaries

    @property
    def argv(self) -> list[str]:
        """Starts the server, from the root of the clone, as the user that made the cluster."""
        return [sys.executable, "-m", "dev", "postgres", "--run-dir", str(self.folder)]

    def url(self, database: str = DATABASE) -> str:
        """For the owner of Texera's tables, over TCP."""
        return f"postgresql://{OWNER}:{self.owner_password}@127.0.0.1:{self.port}/{database}"

    def superuser_url(self, database: str = DATABASE) -> str:
        """For the superuser, over the unix socket."""
        host = quote(str(self.folder), safe="")
        return f"postgresql://{SUPERUSER}@/{database}?host={host}&port={self.port}"

    def is_ready(self, pid: int) -> bool:
        """Does the server with this process id accept connections?

        The last line of postmaster.pid is its status (src/include/utils/pidfile.h).
        """
        try:
            lines = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"


def create_cluster(
    folder: Path, port: int, environ: Mapping[str, str], *, fsync: bool = True
) -> Cluster:
    """Make a cluster in the new folder `folder`. Its parents must be open to `nobody` for root.

    Without `fsync` a power cut may destroy it; a killed process does not.
    """
    account = postgres_account()
    folder.mkdir()
    account.owns(folder)
    if not account.may_enter(folder):
        raise DevProblem(
            f"Postgres, which runs as the user 'nobody' when started by root, cannot enter "
            f"{folder.parent}. Set TMPDIR to a folder that everybody may enter."
        )
    binaries = find_binaries(account, folder / "programs", environ)
    (folder / "bin").symlink_to(binaries.bin)
    initdb = account.run(
        [
            str(binaries.bin / "initdb"),
            f"--pgdata={folder / 'data'}",
            f"--username={SUPERUSER}",
            "--encoding=UTF8",
            "--no-locale",
            "--auth-local=trust",
            "--auth-host=scram-sha-256",
            "--no-sync",  # the folder is thrown away after a power cut
            "--no-instructions",
        ]
    )
    if initdb.returncode != 0:
        raise StartFailed("Postgres' initdb failed.", initdb.stderr + initdb.stdout)
    with (folder / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write(settings_text(folder, port, binaries, fsync=fsync))
    return Cluster(folder, port, secrets.token_urlsafe(18), binaries)


def settings_text(folder: Path, port: int, binaries: Binaries, *, fsync: bool) -> str:
    """Our part of postgresql.conf."""
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": folder,
        "max_connections": 200,  # the benchmarks compare with many direct clients
        "timezone": "UTC",  # Texera's timestamps have no zone and mean UTC
        "log_timezone": "UTC",
        "shared_buffers": "32MB",  # the sample world is small, and so may the machine be
        # Files in the cluster: a container's /dev/shm is small, and a killed server leaves it full.
        "dynamic_shared_memory_type": "mmap",
        "wal_level": "minimal",  # nobody replicates
        "max_wal_senders": 0,
    }
    if not fsync:
        settings |= WITHOUT_DISK
    if binaries.has_statement_statistics:
        settings["shared_preload_libraries"] = "pg_stat_statements"
        settings["pg_stat_statements.track"] = "all"
    return "".join(f"{name} = '{value}'\n" for name, value in settings.items())


async def create_owner(cluster: Cluster, database: str = DATABASE) -> None:
    """Create the tables' owner and its empty database, on a cluster that is running.

    The owner is no superuser, as in a careful installation, but may create roles (central's
    migrations do) and may read and reset the statement statistics.
    """
    connection = await asyncpg.connect(cluster.superuser_url("postgres"))
    try:
        # A utility statement takes no parameters; the password is ours and has no quote in it.
        await connection.execute(
            f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{cluster.owner_password}'"
        )
        await connection.execute(f"GRANT pg_read_all_stats TO {OWNER}")
        await connection.execute(f"CREATE DATABASE {database} OWNER {OWNER}")
    finally:
        await connection.close()
    if not cluster.binaries.has_statement_statistics:
        return
    connection = await asyncpg.connect(cluster.superuser_url(database))
    try:
        await connection.execute("CREATE EXTENSION pg_stat_statements")
        await connection.execute(f"GRANT EXECUTE ON FUNCTION pg_stat_statements_reset TO {OWNER}")
    finally:
        await connection.close()


@contextmanager
def running(cluster: Cluster, log: Path) -> Iterator[int]:
    """Run the server while the block runs, for callers without an event loop; its process id.

    It ends with this process, however that ends.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            tethered(cluster.argv, signal.SIGQUIT),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=Path(__file__).parent.parent,
            start_new_session=True,  # Ctrl-C is for us, we then stop it in order
        )
    try:
        wait_until(
            lambda: cluster.is_ready(process.pid) or process.poll() is not None, START_TIMEOUT_S
        )
        if not cluster.is_ready(process.pid):
            raise StartFailed("Postgres did not start.", tail(log))
        yield process.pid
    finally:
        stop(process)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server: first a fast shutdown, as last resort an immediate one."""
    for signal_number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        process.send_signal(signal_number)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
        return
