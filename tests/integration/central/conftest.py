"""A central to call."""

from collections.abc import AsyncIterator

import pytest

from tests.databases import Database
from tests.integration.central.authority import Sidecar, serving_central


@pytest.fixture
async def sidecar(database: Database) -> AsyncIterator[Sidecar]:
    """A sidecar beside all of central, over the sample world."""
    async with serving_central(database.central_url) as sidecar:
        yield sidecar
