"""The whole system, started as a user starts it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.ready import Ready
from tests.databases import open_folder
from tests.systems import Up, running_system


@pytest.fixture
def system_folder() -> Iterator[Path]:
    """An empty folder for a system's temporary files."""
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="module", params=["response cache", "aiohttp alone"])
def up(request: pytest.FixtureRequest) -> Iterator[Up]:
    """A running system shared by a module's tests, with and without the response cache."""
    alone = ("--set", "SIDECAR_RESPONSE_CACHE=false") if request.param == "aiohttp alone" else ()
    with open_folder() as folder:
        also = ("--set", f"SIDECAR_UNIX_SOCKET={folder / 'api.sock'}")
        with running_system(folder, *alone, *also) as up:
            yield up


@pytest.fixture
def system(up: Up) -> Ready:
    """Where the module's running system is: the contents of its ready file."""
    return up.ready
