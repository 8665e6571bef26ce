"""A commit whose outcome central never learns: the call repeated with its key takes effect once.

Every interleaving of: the call, committed or rolled back, repeated at the same replica or at
another, after the outcome is decided or before. Batches: `test_batches_unknown_commit.py`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest

from dev.world import WORLD
from tests.databases import Database
from tests.integration.central.batching import Connection
from tests.integration.central.central_fixtures import Reply, Sidecar, running_central
from tests.integration.central.commit_proxy import CommitProxy, Cut, commit_proxy
from tests.integration.central.rows import execution_by_sql
from tests.journeys.crashing.pause_points import PausedBatch, PausePoint, commit_paused

Target: TypeAlias = tuple[str, dict[str, Any]]
"""The path of a POST, and its body."""
Prepare: TypeAlias = Callable[[Sidecar, Connection], Awaitable[Target]]
RECORD_EFFECTS = """
create table public.effects (id serial, table_name text, op text);
create function public.record_effect() returns trigger language plpgsql security definer as $$
begin
    insert into public.effects (table_name, op) values (tg_table_name, tg_op);
    return null;
end $$;
create trigger record_effect after insert or update or delete on texera_db.workflow_executions
for each row execute function public.record_effect();
create trigger record_effect after insert on cu_metadata.bindings
for each row execute function public.record_effect();
create trigger record_effect after insert on cu_metadata.boots
for each row execute function public.record_effect();
"""


async def create(_: Sidecar, __: Connection) -> Target:
    return "/v1/executions", {
        "workflow_id": WORLD.workflow_id,
        "computing_unit_id": WORLD.computing_unit_id,
        "environment_version": "test",
    }


async def bind(_: Sidecar, connection: Connection) -> Target:
    execution_id = await execution_by_sql(connection, status=1)
    return f"/v1/executions/{execution_id}/binding", {}


async def register_boot(sidecar: Sidecar, _: Connection) -> Target:
    """It closes the run of the boot before."""
    await sidecar.create()
    return f"/v1/computing-units/{WORLD.computing_unit_id}/boots", {"boot_id": "b-2"}


async def register_first_boot(_: Sidecar, __: Connection) -> Target:
    return f"/v1/computing-units/{WORLD.computing_unit_id}/boots", {"boot_id": "b-1"}


async def delete(sidecar: Sidecar, _: Connection) -> Target:
    created = await sidecar.create()
    selection = {"execution_ids": [created.body["execution_id"]]}
    return "/v1/executions/delete", {"workflow_id": WORLD.workflow_id} | selection


EFFECTS: dict[Prepare, list[tuple[str, str]]] = {
    create: [("bindings", "INSERT"), ("workflow_executions", "INSERT")],
    bind: [("bindings", "INSERT")],
    register_boot: [("boots", "INSERT"), ("workflow_executions", "UPDATE")],
    register_first_boot: [("boots", "INSERT")],
    delete: [("workflow_executions", "DELETE")],
}


pausable = pytest.mark.parametrize(
    "prepare", [p for p in EFFECTS if p is not register_boot], indirect=True
)
"""A boot that closes runs checks deferred constraints at once, and the pause is one."""


@dataclass
class Case:
    """A call that is about to be made through the proxy, and where it is repeated."""

    database: Database
    proxy: CommitProxy
    first: Sidecar
    second: Sidecar
    target: Target
    effects: list[tuple[str, str]]

    async def call(self, sidecar: Sidecar) -> Reply:
        path, body = self.target
        return await sidecar.call("POST", path, body, user=WORLD.owner, key="the-key")

    async def send(self) -> None:
        reply = await self.call(self.first)
        assert reply.outcome == (503, "database-unavailable")
        assert self.proxy.has_cut.is_set()

    async def check(self, repeated: Reply, connection: Connection, *, has_committed: bool) -> None:
        """The work was done once, whichever call did it, and every repeat gets its response."""
        assert repeated.status in (200, 201), repeated.body
        assert ("Idempotent-Replayed" in repeated.headers) == has_committed
        again = await self.call(self.second)
        assert (again.status, again.body) == (repeated.status, repeated.body)
        assert again.headers["Idempotent-Replayed"] == "true"
        rows = await connection.fetch("select table_name, op from public.effects order by 1, 2")
        assert [tuple(row) for row in rows] == self.effects


@pytest.fixture(params=EFFECTS, ids=lambda prepare: prepare.__name__)
def prepare(request: pytest.FixtureRequest) -> Prepare:
    chosen: Prepare = request.param
    return chosen


@pytest.fixture(params=["same replica", "other replica"])
async def case(
    request: pytest.FixtureRequest,
    prepare: Prepare,
    database: Database,
    owner_connection: Connection,
) -> AsyncIterator[Case]:
    async with (
        commit_proxy(database.central_url) as proxy,
        running_central(proxy.url) as first,
        running_central(database.central_url) as other,
    ):
        other.key = first.key
        target = await prepare(first, owner_connection)
        await owner_connection.execute(RECORD_EFFECTS)
        second = first if request.param == "same replica" else other
        yield Case(database, proxy, first, second, target, EFFECTS[prepare])


@asynccontextmanager
async def sent_and_paused(case: Case, owner_connection: Connection) -> AsyncIterator[PausedBatch]:
    """The call is made and its commit waits inside Postgres, without central."""
    pause = PausePoint.DURING_COMMIT.sql().replace("cursors", "idempotency_keys")
    await owner_connection.execute(pause)
    case.proxy.cut_at(b"COMMIT;", Cut.DURING_COMMIT)
    async with commit_paused(case.database.owner_url, case.send) as paused:
        yield paused


@pytest.mark.parametrize(
    ("cut", "has_committed"), [(Cut.AFTER_COMMIT, True), (Cut.BEFORE_COMMIT, False)]
)
async def test_a_repeat_after_the_outcome_takes_effect_once(
    case: Case, owner_connection: Connection, cut: Cut, has_committed: bool
) -> None:
    case.proxy.cut_at(b"COMMIT;", cut)
    await case.send()

    repeated = await case.call(case.second)

    await case.check(repeated, owner_connection, has_committed=has_committed)


@pausable
async def test_a_repeat_during_the_commit_gets_the_stored_response(
    case: Case, owner_connection: Connection
) -> None:
    async with sent_and_paused(case, owner_connection) as paused:
        repeating = asyncio.create_task(case.call(case.second))
        await paused.until_waiting(2)

    await case.check(await repeating, owner_connection, has_committed=True)


@pausable
async def test_a_repeat_during_a_commit_that_fails_does_the_work(
    case: Case, owner_connection: Connection
) -> None:
    async with sent_and_paused(case, owner_connection) as paused:
        repeating = asyncio.create_task(case.call(case.second))
        await paused.until_waiting(2)
        await paused.fail_commit(case.database.superuser_url)

    await case.check(await repeating, owner_connection, has_committed=False)
