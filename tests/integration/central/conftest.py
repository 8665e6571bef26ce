"""A central to call."""

from collections.abc import AsyncIterator

import pytest

from tests.databases import Database
from tests.integration.central.central_fixtures import Sidecar, running_central
from tests.integration.central.issuer import Issuer, running_issuer


@pytest.fixture
async def sidecar(database: Database) -> AsyncIterator[Sidecar]:
    """A sidecar beside all of central, over the sample world."""
    async with running_central(database.central_url) as sidecar:
        yield sidecar


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    """An issuer of tokens, with its key set over HTTP."""
    async with running_issuer() as issuer:
        yield issuer
