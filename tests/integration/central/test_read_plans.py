"""Central's reads on a million executions: which tables they walk, with our indexes and without.

Plans are read both ways a prepared statement may be planned: for its values, and for any.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from central.migrations.indexes import create_indexes
from central.store.queries import load
from dev.postgres import Cluster
from dev.world import WORLD
from tests.databases import Database, Template, connected, create_template

EXECUTIONS = 1_000_000
RUNS_EACH = 20
VERSIONS = EXECUTIONS // RUNS_EACH
FIRST = 10_000
"""The first id of what is added; the sample world's are below."""
WORKFLOW, EID, UNIT = FIRST + 77, FIRST + 500_000, WORLD.computing_unit_id
USER = WORLD.owner.user_id
BLOCKS_MAX = 200
"""What a read by index may touch: a few pages a row. The tables have tens of thousands."""

GROWN = f"""
SET session_replication_role = replica; -- no foreign keys to check: a superuser's shortcut
INSERT INTO texera_db.workflow (wid, name, content)
    SELECT {FIRST} + n, 'w', '' FROM generate_series(0, {VERSIONS // 5}) n;
INSERT INTO texera_db.workflow_user_access (uid, wid, privilege)
    SELECT {USER}, {FIRST} + n, 'WRITE' FROM generate_series(0, {VERSIONS // 5}) n;
INSERT INTO texera_db.workflow_version (vid, wid, content)
    SELECT {FIRST} + n, {FIRST} + n / 5, '' FROM generate_series(0, {VERSIONS - 1}) n;
INSERT INTO texera_db.workflow_executions (eid, vid, uid, cuid, status, environment_version, result)
    SELECT {FIRST} + n, {FIRST} + n / {RUNS_EACH}, {USER}, {UNIT}, 3, 'x',
        CASE WHEN n % 100000 = 0 THEN 'left' ELSE '' END
    FROM generate_series(0, {EXECUTIONS - 1}) n;
INSERT INTO texera_db.operator_port_executions (workflow_execution_id, global_port_id, result_uri)
    SELECT {FIRST} + n, '(logicalOpId=op,layerName=main,portId=0,isInternal=false,isInput=false)',
        'vfs:///' FROM generate_series(0, {EXECUTIONS - 1}, 4) n;
INSERT INTO texera_db.operator_executions (workflow_execution_id, operator_id, console_messages_uri)
    SELECT {FIRST} + n, 'op', 'vfs:///' FROM generate_series(0, {EXECUTIONS - 1}, 4) n;
"""  # noqa: S608 (our own numbers)

BY_EXECUTION = {
    "executions.read_execution": f"{EID}, {USER}, false, null",
    "uris.read_uris": f"{EID}, {USER}, false",
    "uris.operator_results": f"{EID}, {USER}, false, '(logicalOpId=op,layerName='",
    "uris.operator_console": f"{EID}, {USER}, false, 'op'",
}
BY_WORKFLOW = {
    "executions.list_executions": f"{WORKFLOW}, {USER}, false, null, null, null, 2, true",
    "costs.latest_costs": f"{WORKFLOW}, {USER}, false",
}
OTHERS = {
    "executions.list_executions": f"{WORKFLOW}, {USER}, false, {UNIT}, null, null, 2, false",
    "expired.expired_executions": f"{UNIT}, {USER}, 0, 100",
    "exports.export_facts": f"{WORKFLOW}, {UNIT}, {USER}, false, 4194304",
    "executions.latest_version": f"{WORKFLOW}, {USER}, false",
}


@pytest.fixture(scope="module")
def grown(cluster: Cluster) -> Iterator[Database]:
    """A database of a million executions, without our indexes."""
    template: Template = create_template(cluster, "a_million_executions")
    database = template.database(template.name)

    async def grow() -> None:
        async with connected(database.superuser_url) as connection:
            await connection.execute(GROWN)
            await connection.execute("VACUUM ANALYZE")

    asyncio.run(grow())
    yield database

    async def drop() -> None:
        async with connected(cluster.superuser_url("postgres")) as connection:
            await connection.execute(f"DROP DATABASE {template.name} WITH (FORCE)")

    asyncio.run(drop())


@pytest.fixture(scope="module")
def indexed(grown: Database) -> Database:
    """The same, with them: from here on, so that what needs none is looked at before."""
    asyncio.run(create_indexes(grown.owner_url, lambda line: None))
    return grown


async def plan(connection: Any, name: str, arguments: str, mode: str) -> tuple[set[str], int]:
    """The tables that are walked from end to end, and the pages that are touched."""
    file, _, block = name.partition(".")
    await connection.execute(f"SET plan_cache_mode = {mode}")
    await connection.execute(f"PREPARE read AS {load(file)[block].text}")
    text = await connection.fetchval(
        f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE read({arguments})"
    )
    await connection.execute("DEALLOCATE read")
    root = json.loads(text)[0]["Plan"]
    return walked(root), root["Shared Hit Blocks"] + root["Shared Read Blocks"]


def walked(node: dict[str, Any]) -> set[str]:
    found = {node["Relation Name"]} if node["Node Type"].endswith("Seq Scan") else set()
    for child in node.get("Plans", ()):
        found |= walked(child)
    return found & {
        "workflow", "workflow_version", "workflow_executions",
        "operator_executions", "operator_port_executions",
    }  # fmt: skip


async def assert_few_pages(database: Database, reads: dict[str, str]) -> None:
    async with connected(database.central_url) as connection:
        for name, arguments in reads.items():
            for mode in ("force_custom_plan", "force_generic_plan"):
                tables, block_count = await plan(connection, name, arguments, mode)
                assert (tables, block_count < BLOCKS_MAX) == (set(), True), (
                    name,
                    mode,
                    block_count,
                )


@pytest.mark.timeout(300)
async def test_what_starts_from_an_execution_needs_no_index_of_ours(grown: Database) -> None:
    await assert_few_pages(grown, BY_EXECUTION)


@pytest.mark.parametrize("name", BY_WORKFLOW)
async def test_without_them_a_look_up_by_workflow_walks_whole_tables(
    grown: Database, name: str
) -> None:
    async with connected(grown.central_url) as connection:
        tables, block_count = await plan(connection, name, BY_WORKFLOW[name], "force_custom_plan")

    assert tables >= {"workflow_executions"} or block_count > 50 * BLOCKS_MAX


async def test_with_them_it_touches_a_few_pages(indexed: Database) -> None:
    await assert_few_pages(indexed, BY_WORKFLOW)
    await assert_few_pages(indexed, OTHERS)


async def test_an_unfinished_index_is_made_anew(indexed: Database) -> None:
    name = "cu_metadata_executions_by_version"
    async with connected(indexed.superuser_url) as connection:
        await connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass",
            f"texera_db.{name}",
        )

    lines: list[str] = []
    await create_indexes(indexed.owner_url, lines.append)
    await create_indexes(indexed.owner_url, lines.append)

    assert [line for line in lines if "unfinished" in line] == [
        f"drop index concurrently texera_db.{name}: an interrupted run had left it unfinished"
    ]
    async with connected(indexed.owner_url) as connection:
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = $1::text::regclass"
        assert await connection.fetchval(valid, f"texera_db.{name}")
