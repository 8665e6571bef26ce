"""Fixtures of the integration tests: the older and the newest variants of Texera's schema."""

from collections.abc import AsyncIterator

import pytest

from dev.postgres import Cluster
from tests.databases import Database, Template, copy_of, create_template


@pytest.fixture(scope="session")
def int_sizes_template(cluster: Cluster) -> Template:
    """Sizes are INT, as before July 2026."""
    return create_template(cluster, "template_int_sizes", int_sizes=True)


@pytest.fixture(scope="session")
def warehouse_template(cluster: Cluster) -> Template:
    """With per-user warehouses, as in the newest schema."""
    return create_template(cluster, "template_warehouse", warehouses=True)


@pytest.fixture
async def int_sizes_database(int_sizes_template: Template) -> AsyncIterator[Database]:
    """As `database`, in the older schema."""
    async with copy_of(int_sizes_template) as database:
        yield database


@pytest.fixture
async def warehouse_database(warehouse_template: Template) -> AsyncIterator[Database]:
    """As `database`, in the newest schema."""
    async with copy_of(warehouse_template) as database:
        yield database
