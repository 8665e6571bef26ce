"""Rows of our own leave when their time is over, and nothing that may still be needed does."""

import json
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from central.jobs import purger
from central.metrics import Metrics
from central.settings import DatabaseSettings, RetentionSettings
from central.store import database as store
from central.store.retention import CHUNK, Retention
from tests.databases import Database, connected
from tests.integration.central.batching import Connection, add_runs, bind
from tests.integration.central.command_fixtures import central

DAY_S = 86_400.0
SETTINGS = RetentionSettings(30 * DAY_S, 2 * DAY_S, 90 * DAY_S, 30 * DAY_S)
KINDS = ["bindings", "boots", "cursors", "idempotency_keys", "refusals", "source_certificates"]


@pytest.fixture
async def retention(database: Database) -> AsyncIterator[Retention]:
    metrics = Metrics(CollectorRegistry())
    pool = store.Database(DatabaseSettings(database.central_url, 0, 2), metrics)
    yield Retention(pool, metrics, SETTINGS)
    await pool.close()


async def fill(connection: Connection, days: float) -> None:
    """A row of each kind that is so old, and of ended runs of that age."""
    (eid,) = await add_runs(connection, 1, source_id=f"source-{days}", status=3)
    await connection.execute(
        f"""
        update cu_metadata.bindings set created_at = now() - interval '{days} days'
        where execution_id = {eid};
        update texera_db.workflow_executions
        set last_update_time = now() at time zone 'utc' - interval '{days} days' where eid = {eid};
        insert into cu_metadata.terminal_statuses (execution_id, status) values ({eid}, 3);
        insert into cu_metadata.cursors (source_id, epoch, last_batch, digest, response, updated_at)
        values ('source', '{days}', 1, '', '', now() - interval '{days} days');
        insert into cu_metadata.idempotency_keys (user_id, route, key, body_sha256, created_at)
        values (1, 'route', '{days}', '', now() - interval '{days} days');
        insert into cu_metadata.refusals (source_id, op, slug, detail, refused_at)
        values ('source', 'op', 'late', '', now() - interval '{days} days');
        insert into cu_metadata.source_certificates (source_id, identity, pinned_at)
        values ('pinned-{days}', 'DNS:x', now() - interval '{days} days');
        insert into cu_metadata.boots
            (computing_unit_id, boot_id, source_id, started_at, superseded_at)
        values (1, '{days}', 's', now() - interval '{days} days', now() - interval '{days} days');
        """  # noqa: S608 (numbers)
    )


async def test_each_kind_leaves_when_its_own_time_is_over(
    retention: Retention, owner_connection: Connection
) -> None:
    for days in (1, 3, 31, 91):
        await fill(owner_connection, days)

    purged = await retention.purge()
    again = await retention.purge()

    expected = {"bindings": 1, "boots": 1, "cursors": 2, "idempotency_keys": 3, "refusals": 2}
    expected["source_certificates"] = 1
    assert purged == expected
    assert again == dict.fromkeys(KINDS, 0)
    kept = {one.kind: one for one in await retention.report()}
    assert {kind: one.rows for kind, one in kept.items()} == {
        kind: 4 - expected[kind] for kind in KINDS
    }
    assert kept["cursors"].kept_for_s == 30 * DAY_S
    assert (
        await owner_connection.fetchval("select count(*) from cu_metadata.terminal_statuses") == 3
    )


async def test_what_may_still_be_needed_is_kept_however_old(
    retention: Retention, owner_connection: Connection
) -> None:
    (open_run,) = await add_runs(owner_connection, 1, status=1)
    await bind(owner_connection, "gone", [2**31 - 1])
    await owner_connection.execute(
        "update cu_metadata.bindings set created_at = now() - interval '10 years';"
        "insert into cu_metadata.boots (computing_unit_id, boot_id, source_id, started_at)"
        " values (1, 'current', 's', now() - interval '10 years')"
    )

    await retention.purge()

    left = await owner_connection.fetch("select execution_id from cu_metadata.bindings")
    assert [row["execution_id"] for row in left] == [open_run]
    assert await owner_connection.fetchval("select boot_id from cu_metadata.boots") == "current"


@pytest.mark.parametrize(
    ("status", "is_revoked", "purged_count"), [(1, False, 0), (1, True, 1), (3, False, 1)]
)
async def test_the_cursor_of_a_source_that_is_bound_to_an_open_run_is_kept(
    retention: Retention,
    owner_connection: Connection,
    status: int,
    is_revoked: bool,
    purged_count: int,
) -> None:
    """Its first batch, sent again because the response was lost, would be applied again."""
    await add_runs(owner_connection, 1, status=status)
    await owner_connection.execute(
        "insert into cu_metadata.cursors (source_id, epoch, last_batch, digest, response,"
        " updated_at) values ('source-a', 'e', 1, '', '', now() - interval '31 days')"
    )
    if is_revoked:
        await owner_connection.execute("update cu_metadata.bindings set revoked_at = now()")

    assert (await retention.purge())["cursors"] == purged_count


async def test_a_kind_whose_rows_cannot_be_deleted_does_not_keep_the_others(
    retention: Retention, owner_connection: Connection
) -> None:
    await fill(owner_connection, 100)
    await owner_connection.execute(
        """
        create function public.fail() returns trigger language plpgsql as $$
        begin
            raise exception 'not this one';
        end $$;
        create trigger fail before delete on cu_metadata.bindings
        for each row execute function public.fail();
        """
    )

    assert await retention.purge() == {kind: int(kind != "bindings") for kind in KINDS}


async def test_rows_that_cannot_be_deleted_do_not_keep_the_others_of_their_kind(
    retention: Retention, owner_connection: Connection
) -> None:
    count, failing = 2 * CHUNK + 7, [1, 2, 500, CHUNK, CHUNK + 1, 2 * CHUNK + 7]
    await owner_connection.execute(
        f"""
        create function public.fail() returns trigger language plpgsql as $$
        begin
            raise exception 'not this one';
        end $$;
        create trigger fail before delete on cu_metadata.refusals
        for each row when (old.user_id = any (array{failing})) execute function public.fail();
        """
    )
    await owner_connection.execute(
        "insert into cu_metadata.refusals (source_id, user_id, op, slug, detail, refused_at)"
        " select 's', n, '', '', '', now() - interval '1 year' + make_interval(secs => n)"
        " from generate_series(1, $1::int) n",
        count,
    )

    assert (await retention.purge())["refusals"] == count - len(failing)

    left = await owner_connection.fetch("select user_id from cu_metadata.refusals order by 1")
    assert [row["user_id"] for row in left] == failing
    registry = retention._metrics.registry
    labels = {"reason": "isolated"}
    assert registry.get_sample_value("central_database_errors_total", labels) == len(failing)


async def test_a_run_that_took_longer_than_bindings_are_kept_keeps_its_binding_after_its_end(
    retention: Retention, owner_connection: Connection
) -> None:
    """What its sidecar still holds for it would be refused."""
    await add_runs(owner_connection, 1, status=5)
    await owner_connection.execute(
        "update cu_metadata.bindings set created_at = now() - interval '91 days';"
        "update texera_db.workflow_executions set last_update_time = now() at time zone 'utc',"
        " starting_time = now() - interval '91 days'"
    )

    assert (await retention.purge())["bindings"] == 0


async def test_the_end_of_a_run_is_kept_as_long_as_one_of_its_bindings(
    retention: Retention, owner_connection: Connection
) -> None:
    """KILLED may still become COMPLETED from the source that took over."""
    await fill(owner_connection, 100)
    eid = await owner_connection.fetchval(
        "update cu_metadata.bindings set revoked_at = now() returning execution_id"
    )
    await bind(owner_connection, "source-b", [eid])

    purged = await retention.purge()

    assert purged["bindings"] == 1
    assert await owner_connection.fetchval(
        "select status from cu_metadata.terminal_statuses where execution_id = $1", eid
    )


async def test_the_end_of_a_run_goes_with_bindings_that_are_purged_together(
    retention: Retention, owner_connection: Connection
) -> None:
    await fill(owner_connection, 100)
    eid = await owner_connection.fetchval("select execution_id from cu_metadata.bindings")
    await owner_connection.execute("update cu_metadata.bindings set may_set_status = false")
    await bind(owner_connection, "source-b", [eid])
    await owner_connection.execute(
        "update cu_metadata.bindings set created_at = now() - interval '100 days'"
    )

    assert (await retention.purge())["bindings"] == 2
    assert not await owner_connection.fetch("select from cu_metadata.terminal_statuses")


async def test_what_was_kept_of_a_run_that_is_gone_goes_with_its_binding(
    retention: Retention, owner_connection: Connection
) -> None:
    await fill(owner_connection, 100)
    eid = await owner_connection.fetchval("select execution_id from cu_metadata.bindings")
    await owner_connection.execute(
        f"insert into cu_metadata.operator_costs (execution_id, operators) values ({eid}, '{{}}');"  # noqa: S608 (numbers)
        f"delete from texera_db.workflow_executions where eid = {eid}"
    )

    await retention.purge()

    for table in ("bindings", "terminal_statuses", "operator_costs"):
        assert await owner_connection.fetchval(f"select count(*) from cu_metadata.{table}") == 0  # noqa: S608


async def test_a_purge_goes_to_the_end_in_bounded_steps(
    retention: Retention, owner_connection: Connection
) -> None:
    count = 2 * CHUNK + 7
    await owner_connection.execute(
        "insert into cu_metadata.refusals (source_id, op, slug, detail, refused_at)"
        " select 's', '', '', '', now() - interval '1 year' from generate_series(1, $1::int)",
        count,
    )

    assert (await retention.purge())["refusals"] == count


async def test_one_replica_purges_at_a_time(
    retention: Retention, database: Database, owner_connection: Connection
) -> None:
    await fill(owner_connection, 1000)

    async with connected(database.central_url) as other:
        await other.execute("begin; select pg_advisory_xact_lock(7080005)")
        meanwhile = await retention.purge()
        await other.execute("rollback")

    assert meanwhile == dict.fromkeys(KINDS, 0)
    assert await retention.purge() == dict.fromkeys(KINDS, 1)


async def test_nothing_of_texeras_is_touched(
    retention: Retention, owner_connection: Connection
) -> None:
    await fill(owner_connection, 1000)
    tables = ("workflow_executions", "operator_executions", "operator_port_executions")
    queries = [f"select ctid::text, xmin::text, t::text from texera_db.{t} t" for t in tables]  # noqa: S608
    before = [await owner_connection.fetch(query) for query in queries]

    await retention.purge()

    assert [await owner_connection.fetch(query) for query in queries] == before
    assert len(before[0]) > 5


async def test_the_service_purges_every_hour_and_goes_on_after_a_failure(
    retention: Retention, owner_connection: Connection
) -> None:
    waits_s: list[float] = []

    class Enough(Exception):
        pass

    async def sleep(seconds: float) -> None:
        waits_s.append(seconds)
        if len(waits_s) == 1:
            await owner_connection.execute("alter table cu_metadata.refusals rename to away")
        if len(waits_s) == 2:
            await owner_connection.execute("alter table cu_metadata.away rename to refusals")
            await fill(owner_connection, 1000)
        if len(waits_s) == 3:
            raise Enough

    with pytest.raises(Enough):
        await purger.run(retention, sleep=sleep, uniform=lambda low, high: high)

    assert waits_s == [purger.PERIOD_S] * 3
    assert {one.rows for one in await retention.report()} == {0}


async def test_the_command_reports_and_purges(
    database: Database, owner_connection: Connection
) -> None:
    await fill(owner_connection, 1000)
    url = database.central_url

    report = json.loads(central(url, "retention", "report", "--json").output)["kept"]
    page = central(url, "retention", "report").output.splitlines()
    purged = json.loads(central(url, "retention", "purge", "--json").output)["purged"]

    assert [one["kind"] for one in report] == KINDS
    assert {one["rows"] for one in report} == {1}
    assert page[0].split() == ["KIND", "ROWS", "OLDEST", "KEPT", "FOR"]
    assert page[1].split()[0] == "bindings"
    assert page[1].endswith("90 d")
    assert purged == dict.fromkeys(KINDS, 1)
