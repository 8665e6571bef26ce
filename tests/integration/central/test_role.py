"""What central's role may do in Texera's schema: exactly what is listed here."""

import asyncpg
import pytest

from dev.world import WORLD
from tests.databases import Database, connected

COLUMNS = {
    ("user", "SELECT"): {"uid", "role"},
    ("workflow", "SELECT"): {"wid", "is_public", "name"},
    ("workflow_computing_unit", "SELECT"): {"cuid", "terminate_time"},
    ("workflow_version", "SELECT"): {"vid", "wid"},
    ("workflow_version", "INSERT"): {"wid", "content"},
    ("workflow_executions", "SELECT"): {
        "eid", "vid", "uid", "cuid", "status", "result", "starting_time", "last_update_time",
        "bookmarked", "name", "environment_version", "log_location", "runtime_stats_uri",
        "runtime_stats_size",
    },
    ("workflow_executions", "INSERT"): {
        "vid", "uid", "cuid", "status", "starting_time", "name", "environment_version",
    },
    ("workflow_executions", "UPDATE"): {
        "status", "result", "last_update_time", "bookmarked", "name", "log_location",
        "runtime_stats_uri", "runtime_stats_size",
    },
    **{
        ("operator_executions", privilege): {
            "workflow_execution_id", "operator_id", "console_messages_uri",
            "console_messages_size",
        }
        for privilege in ("SELECT", "INSERT")
    },
    ("operator_executions", "UPDATE"): {"console_messages_uri", "console_messages_size"},
    **{
        ("operator_port_executions", privilege): {
            "workflow_execution_id", "global_port_id", "result_uri", "result_size",
        }
        for privilege in ("SELECT", "INSERT")
    },
    ("operator_port_executions", "UPDATE"): {"result_uri", "result_size"},
}  # fmt: skip
TABLES = {
    (table, "DELETE")
    for table in ("workflow_executions", "operator_executions", "operator_port_executions")
}


async def test_the_role_has_what_it_needs_of_texera_and_nothing_else(database: Database) -> None:
    async with connected(database.central_url) as connection:
        columns: dict[tuple[str, str], set[str]] = {}
        for row in await connection.fetch(
            "SELECT table_name, privilege_type, column_name"
            " FROM information_schema.column_privileges"
            " WHERE table_schema = 'texera_db' AND grantee IN (current_user, 'PUBLIC')"
        ):
            columns.setdefault((row[0], row[1]), set()).add(row[2])
        tables = await connection.fetch(
            "SELECT table_name, privilege_type FROM information_schema.role_table_grants"
            " WHERE table_schema = 'texera_db' AND grantee IN (current_user, 'PUBLIC')"
        )

    assert columns == COLUMNS
    assert {tuple(row) for row in tables} == TABLES


@pytest.mark.parametrize(
    "statement",
    [
        'SELECT password FROM texera_db."user"',
        'SELECT email FROM texera_db."user"',
        "SELECT content FROM texera_db.workflow",
        "SELECT name FROM texera_db.dataset",
        'SELECT * FROM texera_db."user"',
        'SELECT google_id FROM texera_db."user"',
        """UPDATE texera_db."user" SET role = 'ADMIN'""",
        "SELECT content FROM texera_db.workflow_version",
        "SELECT description FROM texera_db.dataset",
        "UPDATE texera_db.workflow SET is_public = true",
        "SELECT uri FROM texera_db.workflow_computing_unit",
        "SELECT * FROM texera_db.workflow_user_access",
        "INSERT INTO texera_db.workflow_user_access VALUES (1, 1, 'WRITE')",
        "UPDATE texera_db.workflow_executions SET uid = 1",
        "UPDATE texera_db.workflow_executions SET vid = 1",
        "TRUNCATE texera_db.workflow_executions",
        "DELETE FROM texera_db.workflow",
        "TRUNCATE texera_db.operator_executions",
        "UPDATE texera_db.operator_executions SET workflow_execution_id = 1",
        "CREATE TABLE texera_db.mine ()",
        "CREATE TABLE cu_metadata.mine ()",
        "DROP TABLE cu_metadata.bindings",
        "UPDATE cu_metadata.migrations SET checksum = ''",
        "ALTER TABLE cu_metadata.bindings DISABLE TRIGGER ALL",
        "CREATE SCHEMA mine",
        "CREATE ROLE mine",
        "CREATE DATABASE mine",
        "SET ROLE texera",
        "SELECT pg_read_file('/etc/passwd')",
    ],
)
async def test_the_role_is_refused_everything_else(database: Database, statement: str) -> None:
    async with connected(database.central_url) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


async def test_the_definer_functions_return_what_was_asked_for(database: Database) -> None:
    """A workflow's content to its readers, and restricted datasets to whoever can name them."""
    workflow, owner, stranger = WORLD.workflow_id, WORLD.owner.user_id, WORLD.stranger.user_id
    content = "SELECT cu_metadata.workflow_content($1, $2, $3)"
    datasets = "SELECT * FROM cu_metadata.restricted_datasets($1, $2, $3)"
    async with connected(database.central_url) as connection:
        contents = [
            await connection.fetchval(content, workflow, user, reads_everything)
            for user, reads_everything in ((owner, False), (stranger, False), (stranger, True))
        ]
        everybody = await connection.fetch(datasets, owner, ["%", ""], ["%", ""])

    assert contents[0] is not None
    assert contents == [contents[0], None, contents[0]]
    assert everybody == []


async def test_nobody_else_may_call_the_definer_functions(database: Database) -> None:
    """They run as the tables' owner, with a fixed search path."""
    async with connected(database.central_url) as connection:
        rows = await connection.fetch(
            "SELECT p.proname, p.proconfig, acl.grantee"
            " FROM pg_proc p CROSS JOIN aclexplode(p.proacl) acl"
            " WHERE p.pronamespace = 'cu_metadata'::regnamespace AND p.prosecdef"
        )

    assert {row["proname"] for row in rows} >= {"workflow_content", "restricted_datasets"}
    assert all(row["grantee"] != 0 for row in rows)  # 0 is PUBLIC
    assert {tuple(row["proconfig"]) for row in rows} == {("search_path=pg_catalog, pg_temp",)}
