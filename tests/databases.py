"""Databases for tests: one embedded cluster per test process, one fresh database per test."""

import asyncio
import functools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from dev.postgres import INITDB_TEMPLATE, Cluster, create_cluster, running
from dev.texera import create_owner, create_world

ROOT = Path(__file__).parent.parent
CENTRAL_ROLE = "cu_metadata_central"
GIB = 2**30


@dataclass(frozen=True)
class Database:
    """A database of one test: Texera's schema, the sample world (`dev.world.WORLD`), our schema."""

    name: str
    owner_url: str
    """For the owner of Texera's tables."""
    central_url: str
    """For central's least-privilege role."""
    superuser_url: str
    """For superuser actions of a test: terminating a connection, reading statistics."""


@dataclass(frozen=True)
class Template:
    """A template database: copied, never used itself."""

    cluster: Cluster
    name: str
    central_password: str

    def database(self, name: str) -> Database:
        """The URLs of the copy with this name."""
        address = f"127.0.0.1:{self.cluster.port}/{name}"
        return Database(
            name,
            self.cluster.url(name),
            f"postgresql://{CENTRAL_ROLE}:{self.central_password}@{address}",
            self.cluster.superuser_url(name),
        )


def free_port() -> int:
    """A TCP port that was free when this was called."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fastest_folder(memory: Path = Path("/dev/shm")) -> Path:  # noqa: S108 (no file name is guessed)
    """The directory of clusters: in memory if there is enough, where a copy takes 15 ms.

    On a disk it is 50 to 450 ms, because a database is 300 files. Containers often have 64 MiB.
    """
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= GIB:
        return memory
    return Path(tempfile.gettempdir())


@contextmanager
def open_folder() -> Iterator[Path]:
    """A temporary directory that all users may enter: as root, Postgres runs as `nobody`."""
    folder = Path(tempfile.mkdtemp(prefix="texera-test-", dir=fastest_folder()))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@functools.cache
def share_initdb() -> None:
    """Runs initdb once: this process and those that it starts copy what it made.

    The folder is removed with the test process (`conftest.py`).
    """
    folder = Path(tempfile.mkdtemp(prefix="texera-test-", dir=fastest_folder()))
    folder.chmod(0o711)
    cluster = create_cluster(folder / "postgres", free_port(), os.environ)
    os.environ[INITDB_TEMPLATE] = str(cluster.folder / "data")


def remove_shared_initdb() -> None:
    """Does nothing if there is none."""
    if share_initdb.cache_info().currsize:
        shutil.rmtree(Path(os.environ.pop(INITDB_TEMPLATE)).parents[1])
        share_initdb.cache_clear()


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A running cluster with the tables' owner and its empty database. Not safe from power cuts."""
    share_initdb()
    with open_folder() as folder:
        cluster = create_cluster(folder / "postgres", free_port(), os.environ, fsync=False)
        with running(cluster, folder / "postgres.log"):
            asyncio.run(create_owner(cluster))
            yield cluster


def create_texera(
    cluster: Cluster, name: str, *, int_sizes: bool = False, warehouses: bool = False
) -> str:
    """The URL of a new database with Texera's schema and the world, before central has used it."""

    async def create() -> None:
        async with connected(cluster.superuser_url("postgres")) as connection:
            await connection.execute(f"CREATE DATABASE {name} OWNER texera TEMPLATE texera_db")
        async with connected(cluster.url(name)) as connection:
            await create_world(connection, int_sizes=int_sizes, warehouses=warehouses)

    asyncio.run(create())
    return cluster.url(name)


def create_template(
    cluster: Cluster, name: str, *, int_sizes: bool = False, warehouses: bool = False
) -> Template:
    """A template with the sample world, migrated by central's own command."""
    create_texera(cluster, name, int_sizes=int_sizes, warehouses=warehouses)
    # One password a cluster, as its databases share the role.
    template = Template(cluster, name, central_password=cluster.owner_password[::-1])
    migrate(template.database(name))
    return template


def migrate(database: Database) -> None:
    """Run `python -m central migrate` on the database, as an installation does."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "CENTRAL_OWNER_DATABASE_URL": database.owner_url,
        "CENTRAL_DATABASE_URL": database.central_url,
    }
    command = [sys.executable, "-m", "central", "migrate"]
    migration = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert migration.returncode == 0, migration.stdout + migration.stderr


@asynccontextmanager
async def copy_of(template: Template) -> AsyncIterator[Database]:
    """A fresh copy of the template, with the role's password of the template.

    The role is the cluster's: a test that installs a system of its own may have given it another.
    """
    async with copied(template.cluster, template.name) as (name, superuser):
        await superuser.execute(f"ALTER ROLE {CENTRAL_ROLE} PASSWORD '{template.central_password}'")
        yield template.database(name)


@asynccontextmanager
async def empty_database(cluster: Cluster) -> AsyncIterator[str]:
    """The owner's URL of a fresh database with nothing in it."""
    async with copied(cluster, "texera_db") as (name, _):
        yield cluster.url(name)


@asynccontextmanager
async def copied(
    cluster: Cluster, original: str
) -> AsyncIterator[tuple[str, "asyncpg.Connection[asyncpg.Record]"]]:
    """The name of a copy of a database, dropped afterwards whoever is still connected.

    With it comes the superuser's connection to the cluster that made it.
    """
    name = f"test_{secrets.token_hex(6)}"
    # Postgres 15 brought another way, slower here, and made it the default.
    strategy = "STRATEGY file_copy" if cluster.binaries.major >= 15 else ""
    async with connected(cluster.superuser_url("postgres")) as connection:
        await connection.execute(
            f"CREATE DATABASE {name} OWNER texera TEMPLATE {original} {strategy}"
        )
        try:
            yield name, connection
        finally:
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection for the block."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
