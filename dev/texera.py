"""Texera's schema in any of its variants, with the sample world, in a database."""

from pathlib import Path

import asyncpg

from dev.postgres import DATABASE, OWNER, Cluster
from dev.postgres_binaries import MIN_MAJOR
from dev.problems import DevProblem
from dev.world import FIRST_NEW_ID, WORLD
from dev.world_rows import history, relations

SCHEMA = "texera_db"
FOLDER = Path(__file__).parent
SAMPLE_WORKFLOW = FOLDER / "workflows" / "sample.json"


async def create_owner(cluster: Cluster, database: str = DATABASE) -> None:
    """Create the tables' owner and its empty database, on a cluster that is running.

    The owner is no superuser, as in a careful installation, but may create roles (central's
    migrations do) and may read and reset the statement statistics.
    """
    connection = await asyncpg.connect(cluster.superuser_url("postgres"))
    try:
        # A utility statement takes no parameters; the password is ours and has no quote in it.
        await connection.execute(
            f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{cluster.owner_password}'"
        )
        await connection.execute(f"GRANT pg_read_all_stats TO {OWNER}")
        await connection.execute(f"CREATE DATABASE {database} OWNER {OWNER}")
    finally:
        await connection.close()
    if not cluster.binaries.has_statement_statistics:
        return
    connection = await asyncpg.connect(cluster.superuser_url(database))
    try:
        await connection.execute("CREATE EXTENSION pg_stat_statements")
        await connection.execute(f"GRANT EXECUTE ON FUNCTION pg_stat_statements_reset TO {OWNER}")
    finally:
        await connection.close()


async def create_world(
    connection: "asyncpg.Connection[asyncpg.Record]",
    *,
    int_sizes: bool = False,
    warehouses: bool = False,
) -> None:
    """Create Texera's schema and the sample world, in one transaction, in an empty database."""
    content = SAMPLE_WORKFLOW.read_text() if SAMPLE_WORKFLOW.exists() else "{}"
    async with connection.transaction():
        await connection.execute(sql("texera.sql"))
        if int_sizes:
            await connection.execute(sql("texera_int_sizes.sql"))
        if warehouses:
            await connection.execute(sql("texera_warehouse.sql"))
        now = await connection.fetchval("SELECT date_trunc('second', now() AT TIME ZONE 'UTC')")
        for table, rows in (relations(WORLD, content) | history(WORLD, now)).items():
            await connection.copy_records_to_table(
                table,
                schema_name=SCHEMA,
                columns=list(rows[0]),
                records=[tuple(row.values()) for row in rows],
            )
        await start_sequences(connection)


async def refuse_unless_empty(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """DevProblem unless the database is new enough and empty."""
    if connection.get_server_version().major < MIN_MAJOR:
        raise DevProblem(
            f"The database is older than Postgres {MIN_MAJOR}, the oldest supported one."
        )
    found = await connection.fetchval(sql("somebodys.sql"))
    if found is not None:
        raise DevProblem(
            f"The database is not empty, it holds {found}: the sample world is only made in an "
            "empty one. Create a database for it (CREATE DATABASE ...) and give its URL."
        )


async def start_sequences(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Restart every sequence of the schema at FIRST_NEW_ID."""
    sequences = await connection.fetch(
        "SELECT schemaname || '.' || sequencename FROM pg_sequences WHERE schemaname = $1", SCHEMA
    )
    for (sequence,) in sequences:
        await connection.execute(
            "SELECT setval($1::text::regclass, $2, false)", sequence, FIRST_NEW_ID
        )


def sql(name: str) -> str:
    """One of the .sql files beside this one."""
    return (FOLDER / name).read_text()
