"""A history of a real sidecar, central and Postgres; the sidecar is killed in the middle."""

import asyncio
import os
import random
import signal
from collections.abc import Iterator

import aiohttp
import pytest

from tests.databases import open_folder
from tests.linearizability.checker import complaints
from tests.linearizability.clients import INITIAL, Run, Server
from tests.linearizability.history import History
from tests.linearizability.test_in_process import settle_all
from tests.systems import Up, running_system

SEED = int(os.environ.get("LINEARIZABILITY_SEED", "1"))


@pytest.fixture
def up() -> Iterator[Up]:
    with open_folder() as folder, running_system(folder) as up:
        yield up


async def create(server: Server, up: Up) -> int:
    body = {
        "workflow_id": up.ready["workflow_id"],
        "computing_unit_id": up.ready["computing_unit_id"],
        "environment_version": "x",
        "name": INITIAL["name"],
    }
    status, created = await server.call("POST", "/v1/executions", body)
    assert status == 201, created
    execution_id: int = created["execution_id"]
    return execution_id


async def kill_sidecar(up: Up, chance: random.Random) -> None:
    """SIGKILL in the middle of the history, started again by what the ready file says."""
    await asyncio.sleep(0.2 + 0.3 * chance.random())
    os.kill(up.published("sidecar")["pid"], signal.SIGKILL)
    up.ready["processes"]["sidecar"]["pid"] = up.restart("sidecar").pid


async def test_history_with_a_killed_sidecar_is_linearizable(up: Up) -> None:
    history, chance = History(), random.Random(SEED)
    async with aiohttp.ClientSession() as session:
        token = up.ready["users"]["owner"]["token"]
        server = Server(lambda: up.ready["sidecar"], token, session)
        runs = [
            Run(
                server,
                history,
                up.ready["workflow_id"],
                await create(server, up),
                chance,
                can_be_refused=False,
            )
            for _ in range(2)
        ]
        async with asyncio.timeout(90):
            clients = [asyncio.create_task(run.all(writes=12, reads=60)) for run in runs]
            await kill_sidecar(up, chance)
            await asyncio.gather(*clients)
            for run in runs:
                await settle_all(run)
                await run.read_execution()
                await run.read_uris(3)

    found = complaints(history, INITIAL)
    assert all(run.acknowledged for run in runs)
    assert not found, f"seed {SEED}: " + "\n".join(found)
