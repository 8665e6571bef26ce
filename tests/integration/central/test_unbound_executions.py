"""`python -m central orphans`: open runs that no sidecar was bound to, and withheld orphans.

`ls` changes nothing; `close` closes what matches the filters, and nothing else.
"""

import json
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from central.jobs.orphan_closer import CHUNK
from central.metrics import Metrics
from central.settings import DatabaseSettings
from central.store import database as store
from central.store.orphans import ExecutionCloser, UnboundExecutions, UnboundFilter
from dev.world import WORLD
from tests.databases import Database
from tests.integration.central.batching import Connection, add_runs
from tests.integration.central.command_fixtures import central
from tests.integration.central.lease_fixtures import add_leased, advance, reasons, statuses
from tests.integration.central.rows import execution_by_sql

OLD_UTC = "now() at time zone 'utc' - interval '3 days'"


def command_json(database: Database, *arguments: str) -> Any:
    done = central(database.central_url, *arguments, "--json")
    assert done.exit_code == 0, done.errors
    return json.loads(done.output)


async def age(connection: Connection, execution_id: int) -> None:
    await connection.execute(
        f"update texera_db.workflow_executions set starting_time = {OLD_UTC},"  # noqa: S608
        " last_update_time = null where eid = $1",
        execution_id,
    )


@pytest.fixture
async def stale_runs(owner_connection: Connection) -> dict[str, int]:
    """One run of each kind, all RUNNING, all but one old."""
    connection = owner_connection
    runs = {
        "running": await execution_by_sql(connection, status=1),
        "transient": await execution_by_sql(connection, status=-1),
        "nowhere": await execution_by_sql(connection, status=1, cuid=None),
        "terminated": await execution_by_sql(
            connection, status=1, cuid=WORLD.other_computing_unit_id
        ),
        "ended": await execution_by_sql(connection, status=3),
        "bound": (await add_runs(connection, 1, status=1))[0],
    }
    for execution_id in runs.values():
        await age(connection, execution_id)
    runs["young"] = await execution_by_sql(connection, status=1)
    await connection.execute(
        f"update texera_db.workflow_computing_unit set terminate_time = {OLD_UTC}"  # noqa: S608
        " where cuid = $1",
        WORLD.other_computing_unit_id,
    )
    return runs


async def test_ls_lists_open_old_unbound_runs_and_changes_nothing(
    database: Database, owner_connection: Connection, stale_runs: dict[str, int]
) -> None:
    before = await owner_connection.fetch("select * from texera_db.workflow_executions")

    listed = {r["execution_id"]: r for r in command_json(database, "orphans", "ls")["runs"]}
    page = central(database.central_url, "orphans", "ls").output

    wanted = {stale_runs[n]: n for n in ("running", "transient", "nowhere", "terminated")}
    assert listed.keys() == {*wanted, WORLD.stuck_execution_id}
    states = {wanted[i]: r["unit_state"] for i, r in listed.items() if i in wanted}
    assert states == {
        "running": "running",
        "transient": "running",
        "nowhere": "none",
        "terminated": "terminated",
    }
    assert listed[stale_runs["transient"]]["status"] == "UNKNOWN"
    assert page.splitlines()[0].split()[:3] == ["EXECUTION", "WORKFLOW", "USER"]
    assert len(page.splitlines()) == 1 + len(listed)
    assert await owner_connection.fetch("select * from texera_db.workflow_executions") == before


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (["--unit-state", "terminated"], ["terminated"]),
        (["--unit-state", "none"], ["nowhere"]),
        (["--computing-unit", str(WORLD.computing_unit_id)], ["running", "transient"]),
        (["--unit-state", "running", "--computing-unit", "202"], []),
    ],
)
async def test_close_closes_what_matches_the_filters_and_nothing_else(
    database: Database,
    owner_connection: Connection,
    stale_runs: dict[str, int],
    filters: list[str],
    names: list[str],
) -> None:
    before = dict(zip(stale_runs, await statuses_of(owner_connection, stale_runs), strict=True))

    closed = command_json(database, "orphans", "close", "--min-age-h", "48", *filters)["closed"]

    others = [WORLD.stuck_execution_id] if "terminated" in names else []
    assert sorted(closed) == sorted([*others, *(stale_runs[name] for name in names)])
    after = dict(zip(stale_runs, await statuses_of(owner_connection, stale_runs), strict=True))
    assert after == before | dict.fromkeys(names, 4)
    assert await reasons(owner_connection, closed) == dict.fromkeys(closed, "stale")


async def statuses_of(connection: Connection, runs: dict[str, int]) -> list[int]:
    return [(await statuses(connection, [execution_id]))[0] for execution_id in runs.values()]


async def test_many_runs_are_closed_page_by_page(
    database: Database, owner_connection: Connection
) -> None:
    ids = await add_runs(owner_connection, 1203, source_id=None, status=1)

    closed = command_json(
        database, "orphans", "close", "--min-age-h", "48", "--computing-unit", "201"
    )

    assert closed["closed"] == ids
    assert set(await statuses(owner_connection, ids)) == {4}


@pytest.mark.parametrize("part", [1, 3, 1000])
async def test_every_page_size_lists_each_run_once(
    database: Database,
    stale_runs: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    part: int,
) -> None:
    monkeypatch.setattr("central.store.orphans.SCAN_CHUNK", part)
    metrics = Metrics(CollectorRegistry())
    pool = store.Database(DatabaseSettings(database.central_url, 0, 2), metrics)
    try:
        found = UnboundExecutions(pool, ExecutionCloser(metrics)).find(UnboundFilter(48 * 3600))
        listed = [run.execution_id async for run in found]
    finally:
        await pool.close()

    wanted = [stale_runs[name] for name in ("running", "transient", "nowhere", "terminated")]
    assert listed == sorted([WORLD.stuck_execution_id, *wanted])


async def test_invalid_arguments_exit_2(database: Database) -> None:
    for arguments in (
        ["close"],
        ["close", "--min-age-h", "-1"],
        ["close", "--min-age-h", "1", "--unit-state", "gone"],
        ["ls", "--computing-unit", "0"],
        ["ls", "--kind", "lapsed", "--unit-state", "terminated"],
    ):
        assert central(database.central_url, "orphans", *arguments).exit_code == 2


async def test_withheld_orphans_are_closed_by_an_operator(
    database: Database, owner_connection: Connection
) -> None:
    silent = await add_leased(owner_connection, 7)
    await advance(owner_connection, 1000)
    healthy = await add_leased(owner_connection, 2, source_id="source-b")

    listed = command_json(database, "orphans", "ls", "--kind", "lapsed")
    untouched = await statuses(owner_connection, silent)
    closed = command_json(database, "orphans", "close", "--kind", "lapsed", "--min-age-h", "0")

    assert (listed, closed) == ({"lapsed": silent}, {"closed": silent})
    assert untouched == [1] * 7
    assert await statuses(owner_connection, [*silent, *healthy]) == [4] * 7 + [1] * 2
    assert set((await reasons(owner_connection, silent)).values()) == {"lease-lapsed"}


async def test_withheld_orphans_of_other_units_stay_open(
    database: Database, owner_connection: Connection
) -> None:
    own = await add_leased(owner_connection, 4)
    others = await add_leased(
        owner_connection, 4, source_id="source-b", unit_id=WORLD.other_computing_unit_id
    )
    await advance(owner_connection, 1000)
    filters = ("--kind", "lapsed", "--computing-unit", str(WORLD.computing_unit_id))

    listed = command_json(database, "orphans", "ls", *filters)
    closed = command_json(database, "orphans", "close", "--min-age-h", "0", *filters)

    assert (listed, closed) == ({"lapsed": own}, {"closed": own})
    assert await statuses(owner_connection, [*own, *others]) == [4] * 4 + [1] * 4


async def test_many_withheld_orphans_are_closed_in_short_transactions(
    database: Database, owner_connection: Connection
) -> None:
    ids = await add_leased(owner_connection, 2 * CHUNK + 50)
    await advance(owner_connection, 1000)

    closed = command_json(database, "orphans", "close", "--kind", "lapsed", "--min-age-h", "0")[
        "closed"
    ]

    ended_at = await owner_connection.fetchval(
        "select count(distinct recorded_at) from cu_metadata.terminal_statuses"
    )
    assert (closed, ended_at) == (ids, 3)
    assert set(await statuses(owner_connection, ids)) == {4}


async def test_unavailable_database_exits_69() -> None:
    done = central("postgresql://u:p@127.0.0.1:1/x", "orphans", "ls")

    assert (done.exit_code, done.output) == (69, "")
    assert done.errors.startswith("database-unavailable: ")
