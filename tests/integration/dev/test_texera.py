"""Texera's schema and the sample world, in the database."""

import asyncpg
import pytest

from dev.postgres import Cluster
from dev.problems import DevProblem
from dev.texera import create_world, refuse_unless_empty
from dev.world import FIRST_NEW_ID, WORLD
from tests.databases import connected, create_texera, empty_database

SIZES = [
    ("workflow_executions", "runtime_stats_size"),
    ("operator_executions", "console_messages_size"),
    ("operator_port_executions", "result_size"),
]


@pytest.fixture(scope="module")
def world_url(cluster: Cluster) -> str:
    """A database with the sample world, which no test here changes for good."""
    return create_texera(cluster, "test_world")


async def test_new_rows_get_ids_after_those_of_the_world(world_url: str) -> None:
    async with connected(world_url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        eid = await connection.fetchval(
            "INSERT INTO texera_db.workflow_executions (vid, uid, cuid, environment_version)"
            " VALUES ($1, $2, $3, '') RETURNING eid",
            WORLD.version_id,
            WORLD.owner.user_id,
            WORLD.computing_unit_id,
        )
        await transaction.rollback()

    assert eid == FIRST_NEW_ID


async def test_grants_are_those_of_the_sample_world(world_url: str) -> None:
    async with connected(world_url) as connection:
        grants = await connection.fetch(
            "SELECT u.name, a.privilege FROM texera_db.workflow_user_access a"
            ' JOIN texera_db."user" u USING (uid) WHERE wid = $1',
            WORLD.workflow_id,
        )
        unit_grants = await connection.fetch(
            "SELECT u.name, a.privilege FROM texera_db.computing_unit_user_access a"
            ' JOIN texera_db."user" u USING (uid) WHERE cuid = $1',
            WORLD.computing_unit_id,
        )
        owners = await connection.fetch(
            "SELECT cuid, u.name FROM texera_db.workflow_computing_unit"
            ' JOIN texera_db."user" u USING (uid)'
        )

    assert {row["name"]: row["privilege"] for row in grants} == {
        "owner": "WRITE",
        "writer": "WRITE",
        "reader": "READ",
    }
    assert {row["name"]: row["privilege"] for row in unit_grants} == {
        "writer": "WRITE",
        "colleague": "READ",
    }
    assert {row["cuid"]: row["name"] for row in owners} == {
        WORLD.computing_unit_id: "owner",
        WORLD.other_computing_unit_id: "stranger",
    }


async def test_deleting_a_workflow_cascades_to_its_executions(world_url: str) -> None:
    async with connected(world_url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("DELETE FROM texera_db.workflow WHERE wid = $1", WORLD.workflow_id)
        left = await connection.fetchval(
            "SELECT count(*) FROM texera_db.operator_port_executions"
            " WHERE workflow_execution_id = $1",
            WORLD.completed_execution_id,
        )
        await transaction.rollback()

    assert left == 0


@pytest.mark.parametrize("int_sizes", [False, True])
async def test_size_columns_have_the_width_of_the_variant(
    cluster: Cluster, int_sizes: bool
) -> None:
    async with empty_database(cluster) as url, connected(url) as connection:
        await create_world(connection, int_sizes=int_sizes)

        types = await connection.fetch(
            "SELECT table_name, column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = 'texera_db' AND column_name LIKE '%\\_size'"
        )

    wanted = "integer" if int_sizes else "bigint"
    assert {(table, column): kind for table, column, kind in types} == dict.fromkeys(SIZES, wanted)


async def test_warehouse_variant_has_warehouses(cluster: Cluster) -> None:
    async with empty_database(cluster) as url, connected(url) as connection:
        await create_world(connection, warehouses=True)

        warehouse = await connection.fetch(
            "SELECT whid, lakekeeper_warehouse_name FROM texera_db.workflow_executions"
            " LEFT JOIN texera_db.user_warehouse USING (whid)"
        )

    assert {tuple(row) for row in warehouse} == {(None, None)}


async def test_empty_database_is_accepted(cluster: Cluster) -> None:
    async with empty_database(cluster) as url, connected(url) as connection:
        await refuse_unless_empty(connection)


@pytest.mark.parametrize(
    ("somebodys", "named"),
    [
        ("CREATE SCHEMA theirs", "schema theirs"),
        ("CREATE TABLE theirs ()", "relation theirs"),
        ("CREATE VIEW theirs AS SELECT 1", "relation theirs"),
        ("CREATE FUNCTION theirs() RETURNS int LANGUAGE sql AS 'SELECT 1'", "function theirs"),
        ("CREATE TYPE theirs AS ENUM ()", "type "),
    ],
)
async def test_database_with_content_is_refused(
    cluster: Cluster, somebodys: str, named: str
) -> None:
    async with empty_database(cluster) as url, connected(url) as connection:
        await connection.execute(f"SET search_path = public; {somebodys}")

        with pytest.raises(DevProblem, match=f"not empty, it holds {named}"):
            await refuse_unless_empty(connection)


async def test_failed_create_world_leaves_the_database_empty(cluster: Cluster) -> None:
    async with empty_database(cluster) as url, connected(url) as connection:
        await connection.execute("CREATE SCHEMA texera_db")
        with pytest.raises(asyncpg.DuplicateSchemaError):
            await create_world(connection)
        await connection.execute("DROP SCHEMA texera_db")

        await refuse_unless_empty(connection)
