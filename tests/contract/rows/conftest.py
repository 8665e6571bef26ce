"""Each row's test runs in every variant of Texera's schema; its hazards in the present one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dev.postgres import Cluster
from tests.contract.rows.pairs import Pair, running_pair
from tests.databases import Template, create_template

VARIANTS: dict[str, dict[str, bool]] = {
    "BIGINT sizes": {},
    "INT sizes": {"int_sizes": True},
    "BIGINT sizes, warehouses": {"warehouses": True},
    "INT sizes, warehouses": {"int_sizes": True, "warehouses": True},
}


class Templates:
    """The variants, each made when it is first asked for."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._made: dict[str, Template] = {}

    def of(self, variant: str) -> Template:
        if variant not in self._made:
            name = f"template_rows_{list(VARIANTS).index(variant)}"
            self._made[variant] = create_template(self._cluster, name, **VARIANTS[variant])
        return self._made[variant]


@pytest.fixture(scope="session")
def templates(cluster: Cluster) -> Templates:
    return Templates(cluster)


@pytest.fixture(params=VARIANTS)
def any_template(request: pytest.FixtureRequest, templates: Templates) -> Template:
    return templates.of(request.param)


@pytest.fixture
def present_template(templates: Templates) -> Template:
    return templates.of("BIGINT sizes")


@pytest.fixture
def former_template(templates: Templates) -> Template:
    return templates.of("INT sizes")


@pytest.fixture
def newest_template(templates: Templates) -> Template:
    return templates.of("BIGINT sizes, warehouses")


@pytest.fixture
async def pair(any_template: Template, tmp_path: Path) -> AsyncIterator[Pair]:
    """Old and new over two copies, in each variant of the schema."""
    async with running_pair(any_template, tmp_path) as pair:
        yield pair


@pytest.fixture
async def now(present_template: Template, tmp_path: Path) -> AsyncIterator[Pair]:
    """Old and new over two copies of the schema as it stands since July 2026."""
    async with running_pair(present_template, tmp_path) as pair:
        yield pair


@pytest.fixture
async def before(former_template: Template, tmp_path: Path) -> AsyncIterator[Pair]:
    """As `now`, but sizes are INT."""
    async with running_pair(former_template, tmp_path) as pair:
        yield pair


@pytest.fixture
async def newest(newest_template: Template, tmp_path: Path) -> AsyncIterator[Pair]:
    """As `now`, with per-user warehouses."""
    async with running_pair(newest_template, tmp_path) as pair:
        yield pair
