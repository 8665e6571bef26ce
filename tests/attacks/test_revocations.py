"""How long a user reads and writes on after a revocation, while they flood what they still may.

A grant, a role, a binding, a source's key, a token: each has a bound that no load stretches. All
floods go through the real sidecar.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from central.wire.entries import digest_of
from dev.ready import Ready
from dev.tokens import mint
from sidecar.upstream.source_identity import KEY_FILE_NAME
from tests.attacks.conftest import Record
from tests.attacks.hostile import BATCHES, Source
from tests.databases import ROOT, open_folder
from tests.integration.central.signing import SigningKey
from tests.systems import Up, running_system

pytestmark = pytest.mark.timeout(600)  # floods of calls, each far from central

ACCESS_TTL_S = 4.0
ACCOUNT_CHECK_S = 3.0
LEEWAY_S = 2.0
SETTINGS = {
    "SIDECAR_ACCESS_TTL_S": ACCESS_TTL_S,
    "CENTRAL_ACCOUNT_CHECK_S": ACCOUNT_CHECK_S,
    "CENTRAL_JWT_LEEWAY_S": LEEWAY_S,
}
IN_FLIGHT_S = 0.5
"""A response that was made in time may arrive so much later."""
TOKEN_TTL_S = 6
FLOOD = 126
"""As many calls as one user may have at once, without those that read."""
BEFORE, AFTER = "stored-before", "stored-after"
ROLE = """update texera_db."user" set role = $1::text::texera_db.user_role_enum where uid = $2"""
NAME = "select name from texera_db.workflow_executions where eid = $1"


@pytest.fixture(scope="module")
def attacked() -> Iterator[Up]:
    """Far from central, as a flood needs slow calls."""
    settings = [f"--set={name}={value:g}" for name, value in SETTINGS.items()]
    with open_folder() as folder, running_system(folder, "--rtt-ms", "300", *settings) as up:
        yield up


@dataclass
class Client:
    """Calls of the users of a system, through its sidecar."""

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

    async def create(self, token: str) -> int:
        new = {
            "workflow_id": self.ready["workflow_id"],
            "computing_unit_id": self.ready["computing_unit_id"],
            "environment_version": "test",
            "name": BEFORE,
        }
        async with asyncio.timeout(30):
            while True:  # the end of an earlier flood may still be served
                status, created = await self.call("POST", "/v1/executions", new, token=token)
                if status == 201:
                    return int(created["execution_id"])

    async def run(self) -> str:
        """A run of the owner, which reader and owner have read."""
        path = f"/v1/executions/{await self.create(self.token('owner'))}"
        for user in ("reader", "owner"):
            await self.read(path, self.token(user))
        return path

    async def read(self, path: str, token: str) -> None:
        """Reads a run until it is shown, be it in a flood."""
        async with asyncio.timeout(30):
            while await self.name(path, token) != BEFORE:
                pass

    async def name(self, path: str, token: str) -> str:
        """The run's name, or the slug of the problem."""
        _, body = await self.call("GET", path, token=token)
        return str(body.get("name") or body["type"])

    async def rename(
        self, path: str, prefer: str = "wait=0", name: str = AFTER, token: str | None = None
    ) -> tuple[int, Any]:
        token = token or self.token("owner")
        return await self.call("PATCH", path, {"name": name}, token=token, prefer=prefer)

    async def last_read_s(self, path: str, token: str, since: float, lasts_s: float) -> float:
        """When the token was last shown the run, in seconds after `since`, within `lasts_s`.

        It reads while the flood gets no answer of central's: a read that reaches central ends what
        the sidecar knows of the token.
        """
        last_s = 0.0
        while time.monotonic() < since + lasts_s:
            self.is_refused.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.is_refused.wait(), 0.5)
            name = await self.name(path, token)
            assert name != AFTER, "it was written after the revocation"
            if name == BEFORE:
                last_s = time.monotonic() - since
        return last_s

    @asynccontextmanager
    async def flooding(self, token: str) -> AsyncIterator[None]:
        """The token's slowest call, on as many connections as it may have, for the block."""
        path = f"/v1/workflows/{self.ready['workflow_id']}/export-plan"
        operators = [{"id": f"op-{n}", "output_type": "csv"} for n in range(1000)]
        body = {"computing_unit_id": self.ready["computing_unit_id"], "operators": operators}

        async def flood() -> None:
            while True:
                status, _ = await self.call("POST", path, body, token=token)
                if status in {429, 503}:
                    self.is_refused.set()
                    await asyncio.sleep(0.05)

        floods = [asyncio.create_task(flood()) for _ in range(FLOOD)]
        try:
            yield
        finally:
            for task in floods:
                task.cancel()
            await asyncio.gather(*floods, return_exceptions=True)

    async def is_reachable(self) -> bool:
        async with self.session.get(self.ready["sidecar_ops"] + "/status") as reply:
            return bool((await reply.json())["upstream"]["reachable"])

    async def becomes_reachable(self, *, is_reachable: bool) -> None:
        async with asyncio.timeout(60):
            while await self.is_reachable() is not is_reachable:  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.2)

    @asynccontextmanager
    async def central_away(self) -> AsyncIterator[None]:
        central = self.ready["processes"]["central"]["pid"]
        os.kill(central, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(central, signal.SIGCONT)
        await self.becomes_reachable(is_reachable=True)

    def token(self, user: str) -> str:
        return str(self.ready["users"][user]["token"])


@asynccontextmanager
async def clients(ready: Ready) -> AsyncIterator[Client]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Client(ready, session)


@asynccontextmanager
async def connected(ready: Ready) -> AsyncIterator[Any]:
    """A connection of the tables' owner."""
    connection = await asyncpg.connect(ready["database"])
    yield connection
    await connection.close()


@pytest.fixture
async def client(system: Ready) -> AsyncIterator[Client]:
    async with clients(system) as client:
        yield client


@pytest.fixture
async def database(system: Ready) -> AsyncIterator[Any]:
    async with connected(system) as connection:
        yield connection


@asynccontextmanager
async def withdrawn(client: Client, database: Any) -> AsyncIterator[None]:
    """The reader's grant is withdrawn at the database, for the block."""
    row = client.ready["users"]["reader"]["user_id"], client.ready["workflow_id"]
    table = "texera_db.workflow_user_access"
    await database.execute(f"delete from {table} where uid = $1 and wid = $2", *row)  # noqa: S608
    yield
    await database.execute(
        f"insert into {table} (uid, wid, privilege) values ($1, $2, 'READ')",  # noqa: S608
        *row,
    )


async def test_a_revoked_reader_that_floods_reads_nothing(
    client: Client, database: Any, record: Record, rounds: int
) -> None:
    reader, last_s = client.token("reader"), 0.0
    for _ in range(rounds):
        path = await client.run()
        async with client.flooding(reader):
            await client.read(path, reader)
            async with withdrawn(client, database):
                revoked_at = time.monotonic()
                for lasts_s in (ACCESS_TTL_S, 3 * ACCESS_TTL_S):
                    read_s = await client.last_read_s(path, reader, revoked_at, lasts_s)
                    last_s = max(last_s, read_s)
                    await client.rename(path)
                assert await client.is_reachable(), "the flood made central look away"

    record(f"nothing is read later than {last_s:.1f} s after the revocation")
    assert last_s < ACCESS_TTL_S + IN_FLIGHT_S


@pytest.mark.parametrize("role", ["RESTRICTED", "INACTIVE"])
async def test_a_demoted_user_that_floods_reads_nothing(
    client: Client, database: Any, record: Record, rounds: int, role: str
) -> None:
    user, last_s = client.ready["users"]["reader"], 0.0
    for _ in range(rounds):
        path = await client.run()
        async with client.flooding(user["token"]):
            await client.read(path, user["token"])
            await database.execute(ROLE, role, user["user_id"])
            demoted_at = time.monotonic()
            read_s = await client.last_read_s(path, user["token"], demoted_at, 3 * ACCESS_TTL_S)
            last_s = max(last_s, read_s)
        await database.execute(ROLE, "REGULAR", user["user_id"])
        await asyncio.sleep(ACCOUNT_CHECK_S)  # central has forgotten the other role

    record(f"nothing is read later than {last_s:.1f} s after the demotion")
    assert last_s < ACCOUNT_CHECK_S + ACCESS_TTL_S + IN_FLIGHT_S


async def test_an_expired_token_that_floods_reads_nothing(
    client: Client, record: Record, rounds: int
) -> None:
    """What it has read ends with its `exp`; central itself allows for clocks that differ."""
    user, known_s, new_s = client.ready["users"]["reader"], -60.0, -60.0
    for _ in range(rounds):
        paths = await asyncio.gather(*(client.run() for _ in range(30)))
        token = mint(user["user_id"], ttl_s=TOKEN_TTL_S)
        expires_at = time.monotonic() + int(time.time() + TOKEN_TTL_S) - time.time()
        known, *unread = paths
        assert await client.name(known, token) == BEFORE

        async with client.flooding(token):
            while time.monotonic() < expires_at + 3 * LEEWAY_S:
                if await client.name(known, token) == BEFORE:
                    known_s = max(known_s, time.monotonic() - expires_at)
                if unread and await client.name(unread.pop(), token) == BEFORE:
                    new_s = max(new_s, time.monotonic() - expires_at)
                await asyncio.sleep(0.2)

        async with client.central_away():
            await client.becomes_reachable(is_reachable=False)
            assert await client.name(known, token) == "token-expired"

    record(f"what it had read until {known_s:+.1f} s, anything until {new_s:+.1f} s, of its `exp`")
    assert -TOKEN_TTL_S < known_s < IN_FLIGHT_S
    assert new_s < LEEWAY_S + IN_FLIGHT_S


@dataclass
class Unit:
    """A run that its program renames again and again."""

    client: Client
    execution_id: int
    token: str
    problems: set[str] = field(default_factory=set)

    async def write(self) -> None:
        path = f"/v1/executions/{self.execution_id}"
        for number in count():
            name = f"by its unit {number}"
            status, body = await self.client.rename(path, name=name, token=self.token)
            if status >= 400:
                self.problems.add(body["type"])
            await asyncio.sleep(0.02)

    async def is_named(self, name: str, database: Any) -> None:
        async with asyncio.timeout(30):
            while name not in await database.fetchval(NAME, self.execution_id):
                pass

    async def last_write_s(self, database: Any) -> float:
        """When the run was written last, in seconds from now on, until its unit was refused."""
        since, last_s = time.monotonic(), 0.0
        before = await database.fetchval(NAME, self.execution_id)
        self.problems.clear()
        while not self.problems and time.monotonic() < since + 30:
            if await database.fetchval(NAME, self.execution_id) != before:
                last_s = time.monotonic() - since
            await asyncio.sleep(0.02)
        assert self.problems, "the unit does not notice"
        return last_s


@dataclass
class Thief:
    """Another process with a copy of the sidecar's key, which renames the same run."""

    source: Source
    execution_id: int
    outcomes: set[str] = field(default_factory=set)

    async def write(self) -> None:
        for number in count(1):
            entry: dict[str, Any] = {
                "seq": number,
                "execution_id": self.execution_id,
                "made_at_ms": 0,
            }
            entry |= {"op": "update_execution", "name": f"by a thief {number}"}
            raw = msgspec.json.encode(entry)
            batch = self.source.batch(number, raw, digest_of([msgspec.Raw(raw)]))
            status = await asyncio.to_thread(self.source.post, BATCHES, batch)
            self.outcomes.add(str(status))
            await asyncio.sleep(0.05)


async def test_a_revoked_binding_writes_nothing(
    client: Client, database: Any, record: Record, rounds: int
) -> None:
    """The run's token has expired, so that nothing is bound anew."""
    user, last_s = client.ready["users"]["owner"], 0.0
    for _ in range(rounds):
        token = mint(user["user_id"], ttl_s=LEEWAY_S)
        unit = Unit(client, await client.create(token), token)
        async with client.flooding(user["token"]), running(unit.write()):
            await asyncio.sleep(2 * LEEWAY_S + 1)
            await unit.is_named("by its unit", database)
            await revoke(client.ready, "bindings", "--execution", str(unit.execution_id))
            last_s = max(last_s, await unit.last_write_s(database))
        # To bind anew it takes a good token, and the user's share of the calls, which is flooded.
        assert unit.problems <= {"token-expired", "rate-limited"}

    record(f"nothing is written later than {last_s:.1f} s after the command has returned")
    assert last_s == 0


@pytest.mark.timeout(1200)
async def test_a_revoked_key_writes_nothing(record: Record, rounds: int) -> None:
    """Neither the sidecar's, whose user has a good token, nor a thief's. A revoked key stays so:
    each round has a system of its own."""
    last_s = 0.0
    for _ in range(rounds):
        with open_folder() as folder, running_system(folder, "--rtt-ms", "300") as up:
            async with clients(up.ready) as client, connected(up.ready) as database:
                key = stolen_key(up)
                owner = client.token("owner")
                unit = Unit(client, await client.create(owner), owner)
                thief = Thief(Source(up.ready["central"], key), unit.execution_id)
                async with client.flooding(owner), running(unit.write()), running(thief.write()):
                    for name in ("by its unit", "by a thief"):
                        await unit.is_named(name, database)
                    await revoke(up.ready, "sources", "--source", key.source_id)
                    last_s = max(last_s, await unit.last_write_s(database))

    record(f"nothing is written later than {last_s:.1f} s after the command has returned")
    assert last_s == 0


def stolen_key(up: Up) -> SigningKey:
    """A copy of the sidecar's key."""
    volume = Path(up.published("sidecar")["env"]["SIDECAR_SPOOL_DIR"])
    key = load_pem_private_key((volume / KEY_FILE_NAME).read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return SigningKey(key)


async def revoke(ready: Ready, what: str, *chosen: str) -> None:
    """As an operator does it."""
    command = [sys.executable, "-m", "central", what, "revoke", "--reason", "known", *chosen]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | ready["processes"]["central"]["env"],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()


@asynccontextmanager
async def running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Work that goes on for the block, and must not have failed at its end."""
    task = asyncio.create_task(work)
    yield
    assert not task.done(), task.exception()
    task.cancel()


async def test_a_lapsed_grant_reads_nothing_newer_while_central_is_away(
    client: Client, database: Any, record: Record, rounds: int
) -> None:
    reader, owner = client.token("reader"), client.token("owner")
    for _ in range(rounds):
        unchanged, settled, pending = [await client.run() for _ in range(3)]
        async with withdrawn(client, database):
            await asyncio.sleep(ACCESS_TTL_S)
            await client.rename(settled, prefer="wait=20")
            assert await client.name(settled, owner) == AFTER
            async with client.central_away():
                await client.rename(pending)
                await client.becomes_reachable(is_reachable=False)
                names = [await client.name(p, reader) for p in (unchanged, settled, pending)]
                own = await client.name(pending, owner)

        assert names == [BEFORE, "central-unavailable", BEFORE]
        assert own == AFTER
    record("what was stored after the grant lapsed is 503, pending writes of others do not show")
