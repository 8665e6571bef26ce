"""The database goes and comes: a problem that may be repeated while it is away, never a 500."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from central.jobs.database_watch import DatabaseWatch
from central.metrics import Metrics
from central.settings import DatabaseSettings
from central.store.database import Database as Pool
from dev.world import WORLD
from tests.databases import Database, connected, free_port
from tests.integration.central.central_fixtures import running_central

RUN = f"/v1/executions/{WORLD.completed_execution_id}"
PINGS = "central_statement_seconds_count", {"statement": "ping"}


class Cutter:
    """A TCP proxy to Postgres that can be cut."""

    def __init__(self, port: int) -> None:
        self._target_port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = free_port()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def cut(self) -> None:
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, upstream[1]}
        try:
            await asyncio.gather(pump(reader, upstream[1]), pump(upstream[0], writer))
        finally:
            self._writers -= {writer, upstream[1]}


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while octets := await reader.read(65536):
            writer.write(octets)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def cuttable(database: Database) -> AsyncIterator[tuple[Cutter, str]]:
    """A proxy that is open, and the URL of central's role through it."""
    head, _, address = database.central_url.rpartition("@")
    host_port, _, name = address.partition("/")
    cutter = Cutter(int(host_port.partition(":")[2]))
    await cutter.open()
    try:
        yield cutter, f"{head}@127.0.0.1:{cutter.port}/{name}"
    finally:
        await cutter.cut()


async def test_a_lost_database_is_a_503_until_it_is_back(database: Database) -> None:
    async with cuttable(database) as (cutter, url), running_central(url) as sidecar:
        before = await sidecar.get(RUN)

        await cutter.cut()
        lost = [await sidecar.get(RUN) for _ in range(3)] + [await sidecar.create()]

        await cutter.open()
        after = await sidecar.get(RUN)
        created = await sidecar.create()

    assert (before.status, after.status, created.status) == (200, 200, 201)
    assert {reply.outcome for reply in lost} == {(503, "database-unavailable")}
    assert all(int(reply.headers["Retry-After"]) >= 1 for reply in lost)


async def test_health_needs_no_credentials_and_follows_the_database(database: Database) -> None:
    async def health() -> tuple[int, str]:
        async with sidecar.client.get("/v1/health") as reply:
            body = await reply.json()
            return reply.status, body.get("type") or body["status"]

    async def becomes(status: int) -> tuple[int, str]:
        async with asyncio.timeout(20):
            while (found := await health())[0] != status:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return found

    async with cuttable(database) as (cutter, url), running_central(url) as sidecar:
        before = await health()
        assert not sidecar.metrics.registry.get_sample_value(*PINGS)
        await cutter.cut()
        assert (await sidecar.get(RUN)).status == 503
        lost = await becomes(503)
        await cutter.open()
        after = await becomes(200)

    assert sidecar.metrics.registry.get_sample_value(*PINGS)
    assert (before, lost, after) == (
        (200, "available"),
        (503, "database-unavailable"),
        (200, "available"),
    )


async def test_a_call_that_fails_alone_does_not_make_the_database_unavailable(
    database: Database,
) -> None:
    pool = Pool(DatabaseSettings(database.central_url), Metrics(CollectorRegistry()))
    was_called = asyncio.Event()

    async def sleep(seconds: float) -> None:
        was_called.set()
        await asyncio.sleep(0)

    watch = DatabaseWatch(pool, sleep)
    running = asyncio.create_task(watch.run())
    pool.is_suspect.set()
    await asyncio.wait_for(was_called.wait(), 20)
    running.cancel()
    await pool.close()

    assert watch.is_available
    assert not pool.is_suspect.is_set()


async def test_sessions_ended_by_the_server_are_a_503_at_most_once_each(
    database: Database,
) -> None:
    async with (
        running_central(database.central_url) as sidecar,
        connected(database.superuser_url) as superuser,
    ):

        async def read_at_once(count: int) -> set[int]:
            replies = await asyncio.gather(*(sidecar.get(RUN) for _ in range(count)))
            return {reply.status for reply in replies}

        for _ in range(5):
            assert await read_at_once(20) == {200}
            await superuser.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename = 'cu_metadata_central' AND datname = current_database()"
            )
            assert await read_at_once(20) <= {200, 503}


async def test_a_database_that_was_not_migrated_says_what_to_run(
    database: Database, owner_connection: Any
) -> None:
    async with running_central(database.central_url) as sidecar:
        await owner_connection.execute("DROP SCHEMA cu_metadata CASCADE")
        reply = await sidecar.get(RUN)

    assert reply.outcome == (503, "database-unavailable")
    assert "run `central migrate`" in reply.body["detail"]


async def test_a_row_locked_for_long_is_a_503_after_the_roles_lock_timeout(
    database: Database, owner_connection: Any
) -> None:
    async with running_central(database.central_url) as sidecar:
        execution_id = (await sidecar.create()).body["execution_id"]
        async with owner_connection.transaction():
            await owner_connection.execute(
                "SELECT FROM texera_db.workflow_executions WHERE eid = $1 FOR UPDATE", execution_id
            )
            reply = await sidecar.bind(execution_id)

    assert reply.outcome == (503, "database-unavailable")


async def test_without_named_statements_every_call_is_a_transaction(database: Database) -> None:
    """For a PgBouncer before 1.21 in transaction mode: nothing may outlive a transaction."""
    async with (
        running_central(database.central_url, statement_cache_size=0) as sidecar,
        connected(database.superuser_url) as superuser,
    ):
        assert (await sidecar.create()).status == 201
        assert (await sidecar.get(RUN)).status == 200
        last = await superuser.fetch(
            "SELECT query, state FROM pg_stat_activity"
            " WHERE usename = 'cu_metadata_central' AND datname = current_database()"
        )

    assert {(row["query"], row["state"]) for row in last} == {("COMMIT;", "idle")}
