"""Single-call writes: by the user's token and the source's binding, once per idempotency key."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient
from prometheus_client import CollectorRegistry
from yarl import URL

from central.api.writes import WRITES, routes
from central.metrics import Metrics
from central.settings import DatabaseSettings
from central.store import database as store
from central.store.entries import EntryStore
from central.store.writes import Writes
from dev.tokens import mint
from dev.world import WORLD, User
from tests.databases import Database, connected
from tests.integration.central.batching import PORT, Connection, add_runs, run, uris
from tests.integration.central.central_fixtures import Sidecar
from tests.integration.central.rows import until_blocking
from tests.integration.central.signing import SigningKey, served

COMMITTED = (200, {"state": "committed"})


@dataclass
class Line:
    """From one sidecar to central, for whichever user."""

    client: TestClient[web.Request, web.Application]
    key: SigningKey = field(default_factory=SigningKey)
    keys: Any = field(default_factory=count)

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        user: User = WORLD.owner,
        idempotency_key: str | None = None,
    ) -> tuple[int, dict[str, Any]]:
        raw = b"" if body is None else json.dumps(body).encode()
        headers = self.key.headers(
            method,
            URL(path).raw_path_qs,
            raw,
            token=mint(user.user_id, user.role),
            idempotency_key=idempotency_key or f"key-{next(self.keys)}",
        )
        url = self.client.make_url(path)
        async with self.client.session.request(
            method, url, data=raw or None, headers=headers
        ) as response:
            return response.status, await response.json(content_type=None)


@pytest.fixture
async def line(database: Database) -> AsyncIterator[Line]:
    metrics = Metrics(CollectorRegistry())
    pool = store.Database(DatabaseSettings(database.central_url), metrics)
    async with served(routes, {WRITES: Writes(pool, EntryStore(metrics), metrics)}) as client:
        yield Line(client)
    await pool.close()


@pytest.fixture
async def eid(line: Line, owner_connection: Connection) -> int:
    (eid,) = await add_runs(owner_connection, 1, source_id=line.key.source_id)
    return eid


def port_path(eid: int) -> str:
    return f"/v1/executions/{eid}/ports/{quote(PORT, safe='')}"


async def test_each_call_is_committed_before_it_is_answered(
    line: Line, eid: int, owner_connection: Connection
) -> None:
    execution = f"/v1/executions/{eid}"
    console = f"{execution}/operators/op-1_a/console"
    console_uri = uris(eid).console_uri("op-1_a")
    result_uri = uris(eid).result_uri(PORT)

    assert await line.call("PATCH", execution, {"status": "running", "name": "n"}) == COMMITTED
    assert await line.call("PUT", port_path(eid), {"result_uri": result_uri}) == COMMITTED
    assert await line.call("PATCH", port_path(eid), {"result_bytes": 7}) == COMMITTED
    assert await line.call("PUT", console, {"uri": console_uri, "bytes": 1}) == COMMITTED
    assert await line.call("PATCH", console, {"bytes": 2}) == COMMITTED
    assert (
        await line.call("PUT", f"{execution}/operator-costs", {"operators": {"op": 1.5}})
        == COMMITTED
    )
    row = await run(owner_connection, eid)
    assert (row["status"], row["name"]) == (1, "n")
    assert row["age"].total_seconds() < 30
    assert await line.call("DELETE", f"{execution}/uris") == (
        200,
        {
            "results": [{"global_port_id": PORT, "uri": result_uri, "result_bytes": 7}],
            "console": [{"operator_id": "op-1_a", "uri": console_uri, "bytes": 2}],
        },
    )


async def test_the_rules_are_those_of_a_batch(line: Line, eid: int) -> None:
    execution = f"/v1/executions/{eid}"
    await line.call("PATCH", execution, {"status": 5})

    async def slug(method: str, path: str, body: Any) -> tuple[int, str]:
        status, content = await line.call(method, path, body)
        return status, content["type"]

    assert await slug("PATCH", execution, {"status": "RUNNING"}) == (409, "late")
    assert await slug("PATCH", execution, {"status": "FAILED"}) == (409, "status-conflict")
    assert await slug("PUT", port_path(eid), {"result_uri": "vfs:///x"}) == (422, "uri-mismatch")
    assert await slug("PATCH", port_path(eid), {"result_bytes": 1}) == (
        404,
        "port-result-not-found",
    )
    assert await line.call("PATCH", execution, {"status": "COMPLETED"}) == COMMITTED


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"status": "DONE"}, "status"),
        ({"wings": 2}, "wings"),
        ({"name": "a\x00"}, "name"),
        ({"runtime_stats_bytes": -1}, "runtime_stats_bytes"),
    ],
)
async def test_what_cannot_be_stored_is_a_400_that_names_it(
    line: Line, eid: int, body: Any, field: str
) -> None:
    status, content = await line.call("PATCH", f"/v1/executions/{eid}", body)

    assert (status, content["type"]) == (400, "invalid-request")
    assert [error["field"] for error in content["errors"]] == [field]


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (WORLD.writer, (403, "not-the-executions-user")),
        (WORLD.reader, (403, "not-the-executions-user")),
        (WORLD.colleague, (403, "not-the-executions-user")),
        (WORLD.admin, (403, "not-the-executions-user")),
        (WORLD.stranger, (404, "execution-not-found")),
        (WORLD.restricted, (403, "role-not-allowed")),
    ],
)
async def test_only_the_executions_own_user_may_write_through_its_source(
    line: Line, eid: int, user: User, expected: tuple[int, str], owner_connection: Connection
) -> None:
    for route in routes:
        path = route.path.format(
            execution_id=eid, global_port_id=quote(PORT, safe=""), operator_id="op"
        )
        bodies = {
            "change_execution": {"name": "n"},
            "put_port_result": {"result_uri": uris(eid).result_uri(PORT)},
            "set_port_result_size": {"result_bytes": 1},
            "put_console": {"uri": uris(eid).console_uri("op")},
            "set_console_size": {"bytes": 1},
            "put_operator_costs": {"operators": {}},
        }

        status, content = await line.call(
            route.method, path, bodies.get(route.handler.__name__), user=user
        )

        assert (status, content["type"]) == expected
    assert (await run(owner_connection, eid))["name"] == "Untitled Execution"


async def test_an_unbound_or_revoked_source_is_refused_even_with_the_users_token(
    line: Line, eid: int, owner_connection: Connection
) -> None:
    (unbound,) = await add_runs(owner_connection, 1, source_id="another")
    await owner_connection.execute(
        "update cu_metadata.bindings set revoked_at = now() where execution_id = $1", eid
    )

    foreign = await line.call("PATCH", f"/v1/executions/{unbound}", {"name": "n"})
    revoked = await line.call("PATCH", f"/v1/executions/{eid}", {"name": "n"})
    missing = await line.call("PATCH", "/v1/executions/999999", {"name": "n"})

    refusals = [(status, content["type"]) for status, content in (foreign, revoked, missing)]
    assert refusals == [
        (403, "not-bound"),
        (403, "binding-revoked"),
        (404, "execution-not-found"),
    ]


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"status": None, "result": None}])
async def test_a_change_of_nothing_is_refused(line: Line, eid: int, body: Any) -> None:
    status, content = await line.call("PATCH", f"/v1/executions/{eid}", body)

    assert (status, content["type"]) == (400, "invalid-request")


@pytest.mark.parametrize("body", [{"result": ""}, {"log_location": None}, {"bookmarked": False}])
async def test_a_value_that_looks_like_nothing_is_a_change(line: Line, eid: int, body: Any) -> None:
    assert await line.call("PATCH", f"/v1/executions/{eid}", body) == COMMITTED


async def test_a_repeat_gets_the_first_answer_and_another_body_is_refused(
    line: Line, eid: int, owner_connection: Connection
) -> None:
    (other,) = await add_runs(owner_connection, 1, source_id=line.key.source_id)
    path, body = f"/v1/executions/{eid}", {"name": "first"}
    await line.call("PATCH", path, body, idempotency_key="k")
    await line.call("PATCH", path, {"name": "second"})

    again = await line.call("PATCH", path, body, idempotency_key="k")
    reused = await line.call("PATCH", path, {"name": "third"}, idempotency_key="k")
    elsewhere = await line.call("PATCH", f"/v1/executions/{other}", body, idempotency_key="k")

    assert again == COMMITTED
    assert (reused[0], reused[1]["type"]) == (422, "idempotency-key-reused")
    assert elsewhere == COMMITTED
    assert (await run(owner_connection, eid))["name"] == "second"
    assert (await run(owner_connection, other))["name"] == "first"


async def test_a_refused_call_keeps_no_key(line: Line, eid: int) -> None:
    path, body = port_path(eid), {"result_bytes": 1}
    refused = await line.call("PATCH", path, body, idempotency_key="k")
    await line.call("PUT", path, {"result_uri": uris(eid).result_uri(PORT)})

    assert refused[0] == 404
    assert await line.call("PATCH", path, body, idempotency_key="k") == COMMITTED


async def test_a_locked_row_is_waited_for_and_its_newest_version_judged(
    line: Line, eid: int, database: Database, owner_connection: Connection
) -> None:
    async with connected(database.owner_url) as closer:
        await closer.execute("begin")
        await closer.execute(
            "update texera_db.workflow_executions set status = 3 where eid = $1", eid
        )
        calling = asyncio.create_task(
            line.call("PATCH", f"/v1/executions/{eid}", {"status": "FAILED"})
        )
        async with asyncio.timeout(10):
            while not await owner_connection.fetchval(  # noqa: ASYNC110 (it is another process)
                "select exists (select from pg_locks where not granted)"
            ):
                await asyncio.sleep(0.01)
        await closer.execute("commit")

    status, content = await calling
    assert (status, content["type"], content["winner"]) == (409, "status-conflict", "COMPLETED")


async def test_a_size_that_an_int_column_cannot_hold_is_a_422(
    line: Line, int_sizes_database: Database
) -> None:
    metrics = Metrics(CollectorRegistry())
    pool = store.Database(DatabaseSettings(int_sizes_database.central_url), metrics)
    async with (
        connected(int_sizes_database.owner_url) as connection,
        served(routes, {WRITES: Writes(pool, EntryStore(metrics), metrics)}) as client,
    ):
        old = Line(client)
        (eid,) = await add_runs(connection, 1, source_id=old.key.source_id)

        status, content = await old.call(
            "PATCH", f"/v1/executions/{eid}", {"runtime_stats_bytes": 2**31, "name": "n"}
        )

        assert (status, content["type"]) == (422, "value-out-of-range")
        assert (await run(connection, eid))["name"] == "Untitled Execution"
    await pool.close()


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_a_revocation_while_a_write_waits_for_the_row_refuses_it(
    line: Line, eid: int, method: str, database: Database, owner_connection: Connection
) -> None:
    path, body = f"/v1/executions/{eid}", {"status": "COMPLETED"}
    call = (method, path, body) if method == "PATCH" else (method, f"{path}/uris", None)
    async with connected(database.superuser_url) as holder, holder.transaction():
        await holder.execute(
            "select from texera_db.workflow_executions where eid = $1 for update", eid
        )
        write = asyncio.create_task(line.call(*call))
        await until_blocking(holder)
        await owner_connection.execute(
            "update cu_metadata.bindings set revoked_at = now() where execution_id = $1", eid
        )

    status, content = await write

    assert (status, content["type"]) == (403, "binding-revoked")
    assert (await run(owner_connection, eid))["status"] == 0


@pytest.mark.parametrize(
    ("sqlstate", "problem"),
    [("23514", (422, "value-out-of-range")), ("P0001", (503, "database-unavailable"))],
)
async def test_a_row_that_fails_at_the_commit_has_the_problem_of_one_that_fails_before(
    sidecar: Sidecar, owner_connection: Connection, sqlstate: str, problem: tuple[int, str]
) -> None:
    await owner_connection.execute(
        f"""
        create function public.check_name() returns trigger language plpgsql as $$
        begin
            if new.name = 'bad' then
                raise exception 'not this one' using errcode = '{sqlstate}';
            end if;
            return null;
        end $$;
        create constraint trigger check_name after insert or update
        on texera_db.workflow_executions
        deferrable initially deferred for each row execute function public.check_name();
        """
    )
    execution_id = (await sidecar.create()).body["execution_id"]
    path = f"/v1/executions/{execution_id}"

    written = await sidecar.call("PATCH", path, {"name": "bad"}, user=WORLD.owner, key="k")
    created = await sidecar.create(name="bad")
    mended = await sidecar.call("PATCH", path, {"name": "good"}, user=WORLD.owner, key="k")

    assert (written.outcome, created.outcome) == (problem, problem)
    assert mended.status == 200  # what was refused kept no key
