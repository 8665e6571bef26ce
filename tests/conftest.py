"""Fixtures that every kind of test may ask for. None costs anything unless asked for.

Each test process (each xdist worker) has an embedded Postgres of its own, made at first need.
"""

import os
from collections.abc import AsyncIterator, Iterator

import asyncpg
import pytest

from dev.postgres import Cluster
from tests.databases import (
    Database,
    Template,
    connected,
    copy_of,
    create_template,
    fastest_folder,
    remove_shared_initdb,
    running_cluster,
)


def pytest_configure(config: pytest.Config) -> None:
    """Puts the folders of `tmp_path` in memory: a spool syncs each commit, and tests that claim
    more of a disk than that bring their own (`crashing/lossy_disk.py`)."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(fastest_folder()))
    config.add_cleanup(remove_shared_initdb)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running embedded Postgres."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def template(cluster: Cluster) -> Template:
    """The database that `database` copies."""
    return create_template(cluster, "template_current")


@pytest.fixture
async def database(template: Template) -> AsyncIterator[Database]:
    """A database of the test's own: the sample world, central's migrations applied."""
    async with copy_of(template) as database:
        yield database


@pytest.fixture
async def owner_connection(
    database: Database,
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A connection of the tables' owner to `database`."""
    async with connected(database.owner_url) as connection:
        yield connection
