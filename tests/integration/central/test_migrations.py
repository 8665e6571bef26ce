"""`python -m central migrate`: once, whoever runs it and how often; the role it leaves behind."""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from urllib.parse import quote

import asyncpg
import pytest

from central.migrations import MigrationFailed
from central.migrations.runner import ADVISORY_LOCK, Migration, migrate, read_migrations
from central.settings import MigrateSettings
from dev.postgres import Cluster
from dev.texera import create_world
from tests.databases import ROOT, connected, empty_database
from tests.integration.central.rows import until_blocking

STEPS = read_migrations()
LAST = STEPS[-1].number
PREPARED = f"schema cu_metadata is at {LAST:04d}"
PASSWORD = "pw'%\\"  # to be quoted too


@pytest.fixture
async def texera(cluster: Cluster) -> AsyncIterator[str]:
    """The owner's URL of a database that central never saw."""
    async with empty_database(cluster) as url:
        async with connected(url) as connection:
            await create_world(connection)
        yield url


@pytest.fixture
async def role(cluster: Cluster, texera: str) -> AsyncIterator[str]:
    """The name of a role that does not exist, gone afterwards."""
    name = f'central "{secrets.token_hex(4)}"'  # to be quoted: names are the administrator's
    yield name
    async with connected(cluster.superuser_url(texera.rpartition("/")[2])) as connection:
        if await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", name):
            await connection.execute(f"DROP OWNED BY {identifier(name)}")
            await connection.execute(f"DROP ROLE {identifier(name)}")


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def role_url(owner_url: str, role: str, password: str = PASSWORD) -> str:
    """The URL of a role in the owner's database, percent-encoded."""
    _, _, address = owner_url.rpartition("@")
    return f"postgresql://{quote(role, safe='')}:{quote(password, safe='')}@{address}"


@pytest.fixture
def settings(texera: str, role: str) -> MigrateSettings:
    return MigrateSettings(texera, role_url(texera, role))


async def run_migrate(
    settings: MigrateSettings, steps: Sequence[Migration] | None = None
) -> list[str]:
    """What a run reports."""
    lines: list[str] = []
    await migrate(settings, lines.append, steps)
    return lines


async def test_a_second_run_changes_nothing(settings: MigrateSettings, role: str) -> None:
    first, second = await run_migrate(settings), await run_migrate(settings)

    assert first[:-1] == [
        *(f"applied {step.name}" for step in STEPS),
        PREPARED,
        f"created the role {role}",
    ]
    assert second == [PREPARED, first[-1]]
    async with connected(settings.role_url) as connection:
        assert await connection.fetchval("SELECT count(*) FROM cu_metadata.bindings") == 0


async def test_runs_at_once_apply_each_step_once(settings: MigrateSettings) -> None:
    reports = await asyncio.gather(*(run_migrate(settings) for _ in range(5)))

    assert sum("applied 0001_own_tables.sql" in report for report in reports) == 1
    assert sum(report[0] == PREPARED for report in reports) == 4


async def test_a_run_waits_for_the_one_under_way(settings: MigrateSettings) -> None:
    async with connected(settings.owner_url) as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", ADVISORY_LOCK)
        running = asyncio.ensure_future(run_migrate(settings))
        await until_blocking(connection)
        assert not await connection.fetchval("SELECT to_regnamespace('cu_metadata')")

    assert PREPARED in await running


async def test_a_new_password_is_taken_over(settings: MigrateSettings, role: str) -> None:
    await run_migrate(settings)
    changed = MigrateSettings(settings.owner_url, role_url(settings.owner_url, role, "another"))

    await run_migrate(changed)

    async with connected(changed.role_url):
        pass
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(settings.role_url)


async def test_the_roles_timeouts_stand_on_the_role(settings: MigrateSettings) -> None:
    await run_migrate(settings)

    async with connected(settings.role_url) as connection:
        values = [
            await connection.fetchval(f"SHOW {name}")
            for name in ("statement_timeout", "lock_timeout",
                         "idle_in_transaction_session_timeout", "timezone")
        ]  # fmt: skip

    assert values == ["10s", "3s", "15s", "UTC"]


async def test_a_step_changed_after_it_was_applied_is_refused(settings: MigrateSettings) -> None:
    await run_migrate(settings)
    step = STEPS[0]
    changed = Migration(step.number, step.name, step.text + "-- a word more\n")

    with pytest.raises(MigrationFailed, match="is not what was applied to this database"):
        await run_migrate(settings, [changed])


async def test_a_step_that_fails_leaves_nothing_behind(settings: MigrateSettings) -> None:
    broken = Migration(
        LAST + 1, "9999_broken.sql", "-- migrate:up\ncreate table cu_metadata.a ();\noops;"
    )

    with pytest.raises(MigrationFailed, match=r"9999_broken\.sql: syntax error"):
        await run_migrate(settings, [*STEPS, broken])

    async with connected(settings.owner_url) as connection:
        assert await connection.fetchval("SELECT to_regnamespace('cu_metadata')") is None
    assert (await run_migrate(settings))[0] == "applied 0001_own_tables.sql"


async def test_a_later_step_follows_on_an_applied_one(settings: MigrateSettings) -> None:
    await run_migrate(settings)
    later = Migration(
        LAST + 1,
        "9999_later.sql",
        "-- migrate:up\ncreate table cu_metadata.later ();\n"
        "-- migrate:down\ndrop table cu_metadata.bindings;\n",
    )

    report = await run_migrate(settings, [*STEPS, later])

    assert report[:2] == ["applied 9999_later.sql", f"schema cu_metadata is at {LAST + 1:04d}"]
    async with connected(settings.owner_url) as connection:
        assert await connection.fetchval("SELECT to_regclass('cu_metadata.bindings')") is not None


async def test_texeras_tables_stay_as_they_are(settings: MigrateSettings) -> None:
    look = """
        SELECT string_agg(x, E'\\n' ORDER BY x) FROM (
            SELECT conname || pg_get_constraintdef(c.oid) FROM pg_constraint c
            JOIN pg_namespace n ON n.oid = connamespace WHERE nspname = 'texera_db'
            UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'texera_db'
            UNION ALL SELECT tgname || tgrelid::regclass FROM pg_trigger
            UNION ALL SELECT attrelid::regclass || attname || atttypid::regtype FROM pg_attribute
            JOIN pg_class r ON r.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
            WHERE nspname = 'texera_db' AND relkind = 'r'
        ) AS everything (x)
    """
    async with connected(settings.owner_url) as connection:
        before = await connection.fetchval(look)
        await run_migrate(settings)
        assert await connection.fetchval(look) == before


# --- sentences


async def test_another_database_is_an_error_of_its_own(cluster: Cluster, role: str) -> None:
    async with empty_database(cluster) as url:
        with pytest.raises(MigrationFailed, match="is it Texera's database"):
            await run_migrate(MigrateSettings(url, role_url(url, role)))


async def test_the_owner_and_a_superuser_are_no_roles_of_the_service(
    settings: MigrateSettings,
) -> None:
    for name in ("texera", "postgres"):
        with pytest.raises(MigrationFailed, match="takes a role of its own"):
            await run_migrate(
                MigrateSettings(settings.owner_url, role_url(settings.owner_url, name))
            )


async def test_an_owner_who_may_not_create_roles_gets_instructions(
    settings: MigrateSettings, role: str, cluster: Cluster
) -> None:
    async with connected(cluster.superuser_url("postgres")) as superuser:
        await superuser.execute("ALTER ROLE texera NOCREATEROLE")
        try:
            with pytest.raises(MigrationFailed, match=r"have `create role .* run, then"):
                await run_migrate(settings)

            await superuser.execute(f"CREATE ROLE {identifier(role)} LOGIN")
            report = await run_migrate(settings)
            assert any("are left alone" in line for line in report)
        finally:
            await superuser.execute("ALTER ROLE texera CREATEROLE")


def run(arguments: list[str], **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "central", *arguments],
        check=False,
        cwd=ROOT,
        env={"PATH": os.environ.get("PATH", os.defpath)} | variables,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_the_command_says_why_it_failed_and_no_secret() -> None:
    done = run(
        ["migrate"],
        CENTRAL_OWNER_DATABASE_URL="postgresql://owner:hidden@127.0.0.1:1/texera_db",
        CENTRAL_DATABASE_URL="postgresql://central:hidden@127.0.0.1:1/texera_db",
    )

    assert done.returncode == 1
    assert "migration failed: cannot connect to postgresql://owner@127.0.0.1:1/texera_db" in (
        done.stderr
    )
    assert "hidden" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
