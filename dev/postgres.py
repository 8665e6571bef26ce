"""An embedded Postgres cluster: made by initdb in a folder of its own, started by our own code.

Access: any role with its password over TCP on 127.0.0.1; the superuser without one over the unix
socket, which is in a folder that is closed to everybody else.

    folder/            owned by the user that runs Postgres, mode 0700; holds the unix socket
    folder/data/       the cluster
    folder/bin         a link to the programs

`python -m dev postgres --run-dir folder` becomes the server. The process id stays the same, so the
caller has the server's own id, and the same command starts the server again after it was killed.

No database driver is imported here, so that the command starts quickly.
"""

import argparse
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from dev.parent_death import with_death_signal
from dev.polling import wait_until
from dev.postgres_binaries import PostgresBinaries, find_binaries
from dev.postgres_user import postgres_user
from dev.problems import DevProblem, StartFailed
from dev.processes import ROOT, tail

SUPERUSER = "postgres"
OWNER = "texera"
DATABASE = "texera_db"
DEFAULT_PORT = 5432

START_TIMEOUT_S = 30.0  # 0.2 s on an idle machine; a crashed cluster replays its log first
STOP_TIMEOUT_S = 10.0  # SIGINT ends sessions at once and writes a checkpoint
# Sessions of a killed server notice within milliseconds, unless they are stopped.
ORPHAN_TIMEOUT_S = 10.0

INITDB_TEMPLATE = "INITDB_TEMPLATE"
"""A variable of Postgres' own tests: a folder that initdb made, which is copied in a tenth of the
time."""

# For tests: never waits for the disk, not even to start writing.
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
    binaries: PostgresBinaries

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
        """Whether the server with this process id accepts connections.

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
    user = postgres_user()
    folder.mkdir()
    user.take_ownership(folder)
    if not user.may_enter(folder):
        raise DevProblem(
            f"Postgres, which runs as the user 'nobody' when started by root, cannot enter "
            f"{folder.parent}. Set TMPDIR to a folder that everybody may enter."
        )
    binaries = find_binaries(user, folder / "programs", environ)
    (folder / "bin").symlink_to(binaries.bin)
    data = str(folder / "data")
    command = [
        str(binaries.bin / "initdb"),
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        "--encoding=UTF8",
        "--no-locale",
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--no-sync",  # the folder is thrown away after a power cut
        "--no-instructions",
    ]
    if environ.get(INITDB_TEMPLATE):
        command = ["cp", "-Rp", environ[INITDB_TEMPLATE], data]
    initdb = user.run(command)
    if initdb.returncode != 0:
        raise StartFailed("Postgres' initdb failed.", initdb.stderr + initdb.stdout)
    with (folder / "data" / "postgresql.conf").open("a") as configuration:
        configuration.write(settings_text(folder, port, binaries, fsync=fsync))
    return Cluster(folder, port, secrets.token_urlsafe(18), binaries)


def settings_text(folder: Path, port: int, binaries: PostgresBinaries, *, fsync: bool) -> str:
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
        if binaries.major >= 16:
            settings["scram_iterations"] = 1  # tests connect often, and each time both sides hash
    if binaries.has_statement_statistics:
        settings["shared_preload_libraries"] = "pg_stat_statements"
        settings["pg_stat_statements.track"] = "all"
    return "".join(f"{name} = '{value}'\n" for name, value in settings.items())


@contextmanager
def running(cluster: Cluster, log: Path) -> Iterator[int]:
    """Run the server for the block, for callers without an event loop; yields its process id.

    It ends with this process, however that ends.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            with_death_signal(cluster.argv, signal.SIGQUIT),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C reaches the caller alone, which stops it in order
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
    """End the server: by a fast shutdown, then an immediate one, then SIGKILL."""
    for signal_number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        process.send_signal(signal_number)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
        return


# Database URLs ------------------------------------------------------------------------------------


def with_login(url: str, user: str, password: str) -> str:
    """The same database for another role."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return urlunsplit(parts._replace(netloc=f"{login}@{address}"))


def with_address(url: str, host: str, port: int) -> str:
    """The same database at another address."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}{host}:{port}"))


def tcp_address(url: str) -> tuple[str, int]:
    """Host and port. DevProblem for a unix socket, which no TCP proxy can forward to."""
    parts = urlsplit(url)
    if not parts.hostname or "host" in parse_qs(parts.query):
        raise DevProblem("An added round trip needs a database URL with a host and a port.")
    return parts.hostname, parts.port or DEFAULT_PORT


# The server process -------------------------------------------------------------------------------


def processes_in(folder: Path) -> list[int]:
    """The processes whose working folder is `folder`; a server's is its data folder."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").readlink() == folder:
                pids.append(int(entry.name))
        except OSError:
            continue  # it has ended, or is another user's
    return pids


def wait_for_orphans(data: Path, timeout_s: float = ORPHAN_TIMEOUT_S) -> None:
    """Wait until no session of a killed server is left: no server starts beside one."""
    if not wait_until(lambda: not processes_in(data), timeout_s):
        raise DevProblem(f"A Postgres is running in {data} already (process {processes_in(data)}).")


def remove_locks(folder: Path) -> None:
    """Remove the lock files of a killed server, none of whose processes is left.

    Postgres itself only checks that the process id in them exists, which is true for a zombie
    and for another process that got the same id.
    """
    if Path("/proc/self").exists():  # without it wait_for_orphans saw nothing
        for lock in (folder / "data" / "postmaster.pid", *folder.glob(".s.PGSQL.*.lock")):
            lock.unlink(missing_ok=True)


def main(arguments: list[str]) -> int:
    """`python -m dev postgres`: exec replaces this process."""
    parser = argparse.ArgumentParser(prog="python -m dev postgres", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="the cluster's folder")
    folder = parser.parse_args(arguments).run_dir.resolve()
    if not (folder / "data").is_dir():
        raise DevProblem(f"{folder} holds no Postgres cluster.")
    wait_for_orphans(folder / "data")
    remove_locks(folder)
    program = (folder / "bin" / "postgres").resolve()
    os.chdir(folder)
    postgres_user().drop_privileges()
    os.execv(program, [str(program), "-D", str(folder / "data")])  # noqa: S606
