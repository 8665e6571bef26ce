"""What the statements that run all day touch: index look-ups, whatever the size of the tables."""

import json
from typing import Any

import asyncpg
import pytest

from central.store.queries import Query, load
from dev.world import WORLD
from tests.databases import Database, connected
from tests.integration.central.batching import Connection

RUNS = 60_000
LEASED = 20_000
UNITS = 2_000
RENEWED = list(range(100_001, 101_001))
"""A thousand runs of one source, as one renewal names them."""

FILL = """
insert into texera_db.workflow_computing_unit (cuid, uid, name)
select 10000 + n, {user_id}, 'unit ' || n from generate_series(1, {units}) n;
insert into texera_db.workflow_executions
    (eid, vid, uid, cuid, status, environment_version, last_update_time)
select 100000 + n, {version_id}, {user_id}, 10001 + n % {units},
    case when n <= {leased} then 1 else 3 end, 'test', now() at time zone 'utc'
from generate_series(1, {runs}) n;
insert into cu_metadata.bindings
    (execution_id, source_id, user_id, workflow_id, computing_unit_id)
select eid, 'source-' || (eid - 100001) / 1000, uid, {workflow_id}, cuid
from texera_db.workflow_executions where eid > 100000;
insert into cu_metadata.leases (execution_id, source_id, computing_unit_id, expires_at)
select execution_id, source_id, computing_unit_id, now() + interval '90 seconds'
from cu_metadata.bindings where execution_id <= 100000 + {leased};
insert into cu_metadata.terminal_statuses (execution_id, status)
select eid, 3 from texera_db.workflow_executions where eid > 100000 + {leased};
insert into cu_metadata.boots (computing_unit_id, boot_id, source_id, started_at, superseded_at)
select cuid, 'boot ' || n, 's', now() - interval '1 day', case when n < 3 then now() end
from texera_db.workflow_computing_unit, generate_series(1, 3) n where cuid > 10000;
update cu_metadata.leases set expires_at = now() - interval '1 second'
where execution_id % 5000 = 7;
"""

STATEMENTS: dict[str, tuple[str, list[Any]]] = {
    "renew": ("leases", ["source-0", RENEWED, 90.0, 60.0, None]),
    "read_lease_facts": ("leases", ["source-0", RENEWED, None]),
    "insert_missing_leases": ("leases", ["source-0", RENEWED, RENEWED, 90.0]),
    "record_heartbeat": ("leases", [30.0, ["source-0", "source-none"]]),
    "drop_ended_leases": ("orphans", []),
    "find_lapsed": ("orphans", [90.0, None]),
    "count_overdue": ("orphans", [45.0]),
    "find_ended_units": ("orphans", [90.0, 3600.0]),
    "lock_orphans": ("orphans", [RENEWED[:100], [True] * 100, 90.0, 30.0]),
    "close_executions": ("orphans", [RENEWED[:100], ["lease-lapsed"] * 100, True]),
    "lock_earlier_runs": ("boots", [10_001, "boot 4"]),
    "find_boot": ("boots", [10_001, "boot 4"]),
    "supersede": ("boots", [10_001]),
    "share_boot": ("bindings", [100_001, "boot 3"]),
    "open_bindings": ("bindings", ["source-0", 0.0]),
    "find_unbound": ("orphans", [3600.0, None, None, 120_000, 1000]),
    "lock_unbound": ("orphans", [RENEWED[:500], 3600.0]),
    "lock_abandoned": ("bindings", ["source-0", RENEWED, None, True]),
}
SMALL_TABLES = {"renewal_availability", "workflow_version"}


async def fill(connection: Connection, *, analyzed: bool) -> None:
    await connection.execute(
        FILL.format(
            user_id=WORLD.owner.user_id,
            version_id=WORLD.version_id,
            workflow_id=WORLD.workflow_id,
            runs=RUNS,
            leased=LEASED,
            units=UNITS,
        )
    )
    if analyzed:
        await connection.execute("analyze")


@pytest.fixture
async def full(owner_connection: Connection) -> Connection:
    await fill(owner_connection, analyzed=True)
    return owner_connection


def scanned(plan: Any) -> set[str]:
    """The tables of ours and Texera's that a plan reads from end to end."""
    found = {scanned_table for node in plan.get("Plans", []) for scanned_table in scanned(node)}
    if plan["Node Type"] == "Seq Scan":
        found.add(plan["Relation Name"])
    return found


async def plan_of(connection: Connection, query: Query, args: list[Any], mode: str) -> Any:
    """As a pool's connection will have it: prepared, planned for these values or for any."""
    await connection.execute(f"set plan_cache_mode = {mode}")
    await connection.execute(f"prepare planned as {query.text}")
    values = ", ".join(map(literal, args))
    try:
        explained = await connection.fetchval(
            f"explain (format json) execute planned{f'({values})' if values else ''}"
        )
    finally:
        await connection.execute("deallocate planned")
    return json.loads(explained)[0]["Plan"]


def literal(value: Any) -> str:
    if isinstance(value, list):
        return "array[" + ", ".join(map(literal, value)) + "]"
    if value is None:
        return "null"
    return f"'{value}'" if isinstance(value, str) else str(value).lower()


async def tuples_scanned(connection: Connection) -> dict[str, int]:
    """Rows that sequential scans have read, by table, as far as sessions have reported."""
    await connection.execute("select pg_stat_clear_snapshot()")
    rows = await connection.fetch("select relname, seq_tup_read from pg_stat_user_tables")
    return {row["relname"]: row["seq_tup_read"] for row in rows}


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
async def test_no_statement_of_leases_scans_a_table(full: Connection, mode: str) -> None:
    scans = {
        name: scanned(await plan_of(full, load(noun)[name], args, mode)) - SMALL_TABLES
        for name, (noun, args) in STATEMENTS.items()
    }

    assert {name: tables for name, tables in scans.items() if tables} == {}


async def test_a_plan_made_while_the_tables_were_empty_scans_nothing_later(
    database: Database, owner_connection: Connection
) -> None:
    """A pool's connection keeps its plan, and nobody analyzes in between."""
    query = load("leases")["renew"]
    pooled = await asyncpg.connect(database.central_url)
    try:
        for _ in range(8):  # from the sixth on Postgres may keep a plan for any values
            await pooled.fetch(query.text, "source-0", [1], 90.0, 60.0, None)
        await fill(owner_connection, analyzed=False)
        before = await tuples_scanned(owner_connection)
        renewed = await pooled.fetch(query.text, "source-0", RENEWED, 90.0, 60.0, None)
    finally:
        await pooled.close()  # it tells its counts as it goes

    after = await tuples_scanned(owner_connection)
    tables = ("leases", "bindings", "workflow_executions")
    scanned_rows = sum(after[table] - before[table] for table in tables)
    assert len(renewed) == len(RENEWED)
    assert scanned_rows < 100  # those of the first calls, when the tables had five rows


async def test_the_planner_inlines_is_terminal(database: Database) -> None:
    """A function that is called for each row would hide the condition from partial indexes."""
    async with connected(database.central_url) as connection:
        plan = await connection.fetchval(
            "explain (verbose, format json) select from texera_db.workflow_executions"
            " where not cu_metadata.is_terminal(status)"
        )

    assert "is_terminal" not in plan
    assert "<> ALL" in plan
