"""The audit of privileged calls: what is in it, and that no alteration of it goes unseen."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from central.jobs import auditor
from central.metrics import Metrics
from central.settings import DatabaseSettings
from central.store import audit
from central.store import database as store
from central.store.audit import Anchor, Audit, AuditEvent, EventFilter
from central.store.refusals import RefusalLog
from dev.world import WORLD
from tests import databases
from tests.integration.central.batching import Connection
from tests.integration.central.central_fixtures import Sidecar
from tests.integration.central.command_fixtures import central

INSERT = "insert into cu_metadata.audit_events (action, execution_id) values ('revoke', $1)"


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def pool(
    database: databases.Database, registry: CollectorRegistry
) -> AsyncIterator[store.Database]:
    """The service's own role."""
    pool = store.Database(DatabaseSettings(database.central_url), Metrics(registry))
    yield pool
    await pool.close()


@pytest.fixture
def chain(pool: store.Database) -> Audit:
    return Audit(pool)


async def add_events(connection: Connection, count: int = 5) -> None:
    for number in range(1, count + 1):
        await connection.execute(INSERT, number)


async def extended(chain: Audit) -> Anchor:
    end = await chain.extend()
    assert end is not None
    return end


async def test_each_privileged_success_is_one_event(
    sidecar: Sidecar, database: databases.Database, chain: Audit, owner_connection: Connection
) -> None:
    boots = f"/v1/computing-units/{WORLD.computing_unit_id}/boots"
    await sidecar.call("POST", boots, {"boot_id": "one"}, user=WORLD.owner)
    await sidecar.call("POST", boots, {"boot_id": "one"}, user=WORLD.owner)  # changes nothing
    run, lapsed = [(await sidecar.create()).body["execution_id"] for _ in range(2)]
    await owner_connection.execute(
        "update cu_metadata.leases set expires_at = now() - interval '1 s'"
    )
    other = sidecar.another()
    for _ in range(2):  # the second renews the lease only
        bound = await other.call("POST", f"/v1/executions/{run}/binding", {}, user=WORLD.owner)
        assert bound.status == 200
    closing = central(
        database.central_url, "orphans", "close", "--kind", "lapsed", "--min-age-h", "0"
    )
    assert closing.exit_code == 0, closing.errors
    revoked = central(
        database.central_url, "bindings", "revoke", "--execution", str(run), "--reason", "test"
    )
    assert revoked.exit_code == 0, revoked.errors
    selection = {"workflow_id": WORLD.workflow_id, "execution_ids": [run]}
    deleted = await other.call("POST", "/v1/executions/delete", selection, user=WORLD.owner)
    assert deleted.status == 200, deleted.body

    events = await chain.find(EventFilter(), 100)

    source, another, owner = sidecar.source_id, other.source_id, WORLD.owner.user_id
    unit = WORLD.computing_unit_id
    assert [facts_of(event) for event in reversed(events)] == [
        ("boot", owner, source, None, unit, "one"),
        ("create", owner, source, run, unit, None),
        ("create", owner, source, lapsed, unit, None),
        ("take-over", owner, another, run, unit, source),
        ("bind", owner, another, run, unit, None),
        ("close", None, None, lapsed, None, "lease-lapsed"),
        ("revoke", None, another, run, unit, "test"),
        ("delete", owner, another, run, unit, None),
    ]


def facts_of(event: AuditEvent) -> tuple[object, ...]:
    return (
        event.action,
        event.user_id,
        event.source_id,
        event.execution_id,
        event.computing_unit_id,
        event.detail,
    )


async def test_what_is_rolled_back_is_no_event(sidecar: Sidecar, chain: Audit) -> None:
    refused = await sidecar.create(WORLD.stranger)

    assert refused.status == 404
    assert await chain.find(EventFilter(), 10) == []


@pytest.mark.parametrize(
    "statement",
    [
        "update cu_metadata.audit_events set action = 'x'",
        "delete from cu_metadata.audit_events",
        "truncate cu_metadata.audit_events",
        "insert into cu_metadata.audit_events (action, recorded_at) values ('x', now())",
        "insert into cu_metadata.audit_events (id, action) overriding system value values (9, 'x')",
        "update cu_metadata.audit_links set hash = ''",
        "delete from cu_metadata.audit_links",
        "truncate cu_metadata.audit_links",
    ],
)
async def test_the_services_role_may_only_insert(
    database: databases.Database, statement: str
) -> None:
    async with databases.connected(database.central_url) as connection:
        await connection.execute(INSERT, 1)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_an_idle_pass_costs_one_statement(
    chain: Audit, registry: CollectorRegistry, owner_connection: Connection
) -> None:
    await add_events(owner_connection)
    await extended(chain)
    before = statements(registry)

    assert await chain.extend() is None

    assert statements(registry) - before == Counter(has_unlinked_events=1)


def statements(registry: CollectorRegistry) -> Counter[str]:
    name = "central_statement_seconds_count"
    return Counter(
        {
            sample.labels["statement"]: int(sample.value)
            for metric in registry.collect()
            for sample in metric.samples
            if sample.name == name
        }
    )


async def test_an_unaltered_chain_has_no_findings(
    chain: Audit, owner_connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "CHUNK", 2)
    await add_events(owner_connection)
    first = await extended(chain)
    again = await chain.extend()
    await add_events(owner_connection, 2)
    second = await extended(chain)
    await add_events(owner_connection, 1)

    verified = await chain.verify([first, second])

    assert again is None
    assert (first.position, second.position) == (5, 7)
    assert verified.findings == []
    assert (verified.end, verified.linked_count, verified.unlinked_count) == (second, 7, 1)


def without_event(execution_id: int) -> str:
    return f"delete from cu_metadata.audit_events where execution_id = {execution_id};"  # noqa: S608


def without_link(position: int) -> str:
    return f"delete from cu_metadata.audit_links where position = {position};"  # noqa: S608


BACKDATED = """insert into cu_metadata.audit_events (action, execution_id, recorded_at)
               values ('bind', 9, now() - interval '1 day');"""
ADDED_LINK = "insert into cu_metadata.audit_links values (6, 6, 'x');"
SHIFTED_LINKS = "update cu_metadata.audit_links set position = position - 1 where position > 3;"


@pytest.mark.parametrize(
    ("alteration", "finding"),
    [
        ("update cu_metadata.audit_events set user_id = 7 where execution_id = 3", "was changed"),
        ("update cu_metadata.audit_events set recorded_at = now()", "was changed"),
        ("update cu_metadata.audit_links set hash = 'x' where position = 5", "was changed"),
        (without_event(3), "link 3: event 3 is gone"),
        (without_event(1), "link 1: event 1 is gone"),
        (without_link(3), "links 3 to 3 are gone"),
        (without_link(1) + without_link(2), "links 1 to 2 are gone"),
        (without_link(3) + without_event(3), "links 3 to 3 are gone"),
        (without_link(3) + without_event(3) + SHIFTED_LINKS, "link 3: event 4 or the link"),
        (without_link(5) + without_event(5), "does not reach the anchor at link 5"),
        (BACKDATED, "event 6 is not in the chain"),
        (BACKDATED + ADDED_LINK, "link 6: event 6 or the link was changed"),
    ],
)
async def test_an_alteration_is_found(
    chain: Audit, owner_connection: Connection, alteration: str, finding: str
) -> None:
    await add_events(owner_connection)
    end = await extended(chain)
    await owner_connection.execute(alteration)

    verified = await chain.verify([end])

    assert any(finding in text for text in verified.findings), verified.findings


async def test_a_chain_that_was_made_anew_does_not_fit_an_earlier_end(
    chain: Audit, owner_connection: Connection
) -> None:
    await add_events(owner_connection)
    end = await extended(chain)
    await owner_connection.execute(
        "delete from cu_metadata.audit_links;"
        " update cu_metadata.audit_events set user_id = 7 where execution_id = 3"
    )
    await extended(chain)

    assert (await chain.verify()).findings == []
    assert (await chain.verify([end])).findings == [
        "link 5: the chain up to here is not the one of the anchor"
    ]


async def test_a_chain_may_begin_later_if_that_is_said(
    chain: Audit, owner_connection: Connection
) -> None:
    await add_events(owner_connection)
    await extended(chain)
    await owner_connection.execute(
        "delete from cu_metadata.audit_links where position < 3;"
        " delete from cu_metadata.audit_events where execution_id < 3"
    )

    assert (await chain.verify()).findings == ["links 1 to 2 are gone"]
    assert (await chain.verify(first=3)).findings == []


async def test_an_event_that_commits_late_is_linked_later(
    chain: Audit, database: databases.Database, owner_connection: Connection
) -> None:
    async with databases.connected(database.central_url) as slow:
        await slow.execute("begin")
        await slow.execute(INSERT, 1)
        await add_events(owner_connection, 2)
        await extended(chain)  # waits for nobody
        await slow.execute("commit")

    end = await extended(chain)

    assert end.position == 3
    assert [link.event_id async for link in chain.links()] == [2, 3, 1]
    assert (await chain.verify()).findings == []


async def test_two_replicas_extend_one_chain(chain: Audit, owner_connection: Connection) -> None:
    await add_events(owner_connection, 20)

    await asyncio.gather(*(chain.extend() for _ in range(4)))
    verified = await chain.verify()

    assert (verified.findings, verified.linked_count) == ([], 20)


async def test_creates_do_not_wait_for_the_chain(
    sidecar: Sidecar, database: databases.Database, chain: Audit
) -> None:
    """While another transaction appends to the chain, which holds the chain's lock."""
    async with databases.connected(database.central_url) as appending:
        await appending.execute("begin")
        await appending.execute("select pg_advisory_xact_lock(7080006)")
        created = await asyncio.gather(*(sidecar.create() for _ in range(5)))
        assert await chain.extend() is None
        await appending.execute("rollback")

    assert {reply.status for reply in created} == {201}
    assert (await extended(chain)).position == 5


async def test_the_job_logs_the_end_and_survives_an_outage(
    pool: store.Database,
    chain: Audit,
    owner_connection: Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    await add_events(owner_connection)

    metrics = Metrics(CollectorRegistry())
    await auditor.run_once(RefusalLog(pool, metrics), chain)
    down = store.Database(
        DatabaseSettings("postgresql://x@127.0.0.1:9/x"), Metrics(CollectorRegistry())
    )
    await auditor.run_once(RefusalLog(down, metrics), Audit(down))

    assert [record.message for record in caplog.records] == ["audit extended", "audit not extended"]


async def test_the_command_lists_verifies_and_exports(
    sidecar: Sidecar, database: databases.Database, chain: Audit, owner_connection: Connection
) -> None:
    run = (await sidecar.create()).body["execution_id"]
    end = await extended(chain)
    other = Anchor(end.position, bytes(32))

    listed = central(database.central_url, "audit", "ls", "--event", "create", "--json")
    as_table = central(database.central_url, "audit", "ls")
    good = central(database.central_url, "audit", "verify", "--anchor", str(end))
    bad = central(database.central_url, "audit", "verify", "--anchor", str(other), "--json")
    exported = central(database.central_url, "audit", "export")
    await owner_connection.execute("update cu_metadata.audit_events set user_id = 7")
    altered = central(database.central_url, "audit", "verify")

    assert json.loads(listed.output)["events"][0]["execution_id"] == run
    assert str(run) in as_table.output.splitlines()[1].split()
    assert (good.exit_code, good.output) == (0, f"1 linked, 0 not yet, end {end}\n")
    assert bad.exit_code == 1
    assert json.loads(bad.output)["findings"] == [
        "link 1: the chain up to here is not the one of the anchor"
    ]
    (line,) = exported.output.splitlines()
    assert (json.loads(line)["hash"], json.loads(line)["event"]["action"]) == (
        end.hash.hex(),
        "create",
    )
    assert (altered.exit_code, altered.errors) == (1, "link 1: event 1 or the link was changed\n")
