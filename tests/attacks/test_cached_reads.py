"""Who reads from a sidecar's cache, or learns of it, without central's present permission."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
import pytest

from dev.ready import Ready
from tests.attacks.conftest import Record
from tests.databases import open_folder
from tests.systems import Up, running_system

ACCESS_TTL_S = 2.0
IN_FLIGHT_S = 0.5
"""A response that was made in time may arrive so much later."""
FLOOD = 126
"""As many calls as one user may have at once, without those that read."""
BEFORE, AFTER = "stored-before", "stored-after"


@pytest.fixture(scope="module")
def attacked() -> Iterator[Up]:
    """Far from central, as a flood needs slow calls."""
    settings = ("--rtt-ms", "300", "--set", f"SIDECAR_ACCESS_TTL_S={ACCESS_TTL_S:g}")
    with open_folder() as folder, running_system(folder, *settings) as up:
        yield up


@dataclass
class Client:
    """Calls of the users of a system."""

    ready: Ready
    session: aiohttp.ClientSession
    is_refused: asyncio.Event = field(default_factory=asyncio.Event)
    """A call of the flood got no answer of central's."""

    async def call(
        self, method: str, path: str, body: Any = None, *, token: str, prefer: str = "wait=0"
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}", "Prefer": prefer}
        url = self.ready["sidecar"] + path
        async with self.session.request(method, url, json=body, headers=headers) as reply:
            return reply.status, await reply.json(content_type=None)

    async def run(self) -> str:
        """A run of the owner, which reader and owner have read."""
        new = {
            "workflow_id": self.ready["workflow_id"],
            "computing_unit_id": self.ready["computing_unit_id"],
            "environment_version": "test",
            "name": BEFORE,
        }
        _, created = await self.call("POST", "/v1/executions", new, token=self.token("owner"))
        path = f"/v1/executions/{created['execution_id']}"
        assert await self.name(path, "reader") == BEFORE
        return path

    async def name(self, path: str, user: str) -> str:
        """The run's name, or the slug of the problem."""
        _, body = await self.call("GET", path, token=self.token(user))
        return str(body.get("name") or body["type"])

    async def rename(self, path: str, prefer: str = "wait=0") -> None:
        change = {"name": AFTER}
        status, _ = await self.call("PATCH", path, change, token=self.token("owner"), prefer=prefer)
        assert status in {200, 202}

    async def flood(self) -> None:
        """The reader's slowest call, again and again."""
        path = f"/v1/workflows/{self.ready['workflow_id']}/export-plan"
        operators = [{"id": f"op-{n}", "output_type": "csv"} for n in range(1000)]
        body = {"computing_unit_id": self.ready["computing_unit_id"], "operators": operators}
        while True:
            status, _ = await self.call("POST", path, body, token=self.token("reader"))
            if status in {429, 503}:
                self.is_refused.set()
                await asyncio.sleep(0.05)

    async def is_reachable(self) -> bool:
        async with self.session.get(self.ready["sidecar_ops"] + "/status") as reply:
            return bool((await reply.json())["upstream"]["reachable"])

    def token(self, user: str) -> str:
        return str(self.ready["users"][user]["token"])


@pytest.fixture
async def client(system: Ready) -> AsyncIterator[Client]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Client(system, session)


@asynccontextmanager
async def withdrawn(ready: Ready) -> AsyncIterator[None]:
    """The reader's grant is withdrawn at the database, for the block."""
    table, key = "texera_db.workflow_user_access", "uid = $1 AND wid = $2"
    row = ready["users"]["reader"]["user_id"], ready["workflow_id"]
    database = await asyncpg.connect(ready["database"])
    try:
        await database.execute(f"DELETE FROM {table} WHERE {key}", *row)  # noqa: S608
        yield
        await database.execute(
            f"INSERT INTO {table} (uid, wid, privilege) VALUES ($1, $2, 'READ')",  # noqa: S608
            *row,
        )
    finally:
        await database.close()


async def test_a_revoked_reader_that_floods_reads_nothing(
    client: Client, record: Record, rounds: int
) -> None:
    last_s, seen = 0.0, set()
    for _ in range(rounds):
        path = await client.run()
        async with withdrawn(client.ready):
            revoked_at = time.monotonic()
            floods = [asyncio.create_task(client.flood()) for _ in range(FLOOD)]
            await asyncio.sleep(ACCESS_TTL_S)
            await client.rename(path)
            while time.monotonic() < revoked_at + 5 * ACCESS_TTL_S:
                client.is_refused.clear()  # a read that reaches central ends the reader's grant
                await asyncio.wait_for(client.is_refused.wait(), 20)
                name = await client.name(path, "reader")
                seen.add(name)
                if name in {BEFORE, AFTER}:
                    last_s = time.monotonic() - revoked_at
            is_reachable = await client.is_reachable()
            for flood in floods:
                flood.cancel()
            await asyncio.gather(*floods, return_exceptions=True)
        assert is_reachable, "the flood made central look away"

    record(f"nothing is read later than {max(last_s, ACCESS_TTL_S):.0f} s after the revocation")
    assert AFTER not in seen
    assert last_s < ACCESS_TTL_S + IN_FLIGHT_S


async def test_a_lapsed_grant_reads_nothing_newer_while_central_is_away(
    client: Client, record: Record, rounds: int
) -> None:
    central = client.ready["processes"]["central"]["pid"]
    for _ in range(rounds):
        unchanged, settled, pending = [await client.run() for _ in range(3)]
        async with withdrawn(client.ready):
            await asyncio.sleep(ACCESS_TTL_S)
            await client.rename(settled, prefer="wait=20")
            assert await client.name(settled, "owner") == AFTER
            os.kill(central, signal.SIGSTOP)
            try:
                await client.rename(pending)
                async with asyncio.timeout(60):
                    while await client.is_reachable():  # noqa: ASYNC110 (of another process)
                        await asyncio.sleep(0.2)
                names = [await client.name(p, "reader") for p in (unchanged, settled, pending)]
                own = await client.name(pending, "owner")
            finally:
                os.kill(central, signal.SIGCONT)
            async with asyncio.timeout(60):
                while not await client.is_reachable():  # noqa: ASYNC110 (likewise)
                    await asyncio.sleep(0.2)

        assert names == [BEFORE, "central-unavailable", BEFORE]
        assert own == AFTER
    record("what was stored after the grant lapsed is 503, pending writes of others do not show")
