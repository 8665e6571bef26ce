"""Applies the numbered migrations, once each, then prepares the service's role.

All of a run is one transaction under a transaction-level advisory lock: two replicas that
migrate at once do it one after the other, and a run that fails leaves nothing behind. A step
is a file in dbmate's form; what stands under `-- migrate:up` is run, by its number. What was
applied is recorded in `cu_metadata.migrations` with a checksum, so that a file changed after
the fact is refused rather than passed over.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TypeAlias

import asyncpg

from central.migrations import MigrationFailed
from central.migrations.role import prepare_role
from central.settings import MigrateSettings
from central.store.database import session_settings
from central.store.queries import load
from kit.http.settings import without_secrets

ADVISORY_LOCK = 7_080_001  # any fixed number; the port says whose it is
CONNECT_TIMEOUT_S = 10.0
MAX_ATTEMPTS = 5

# Roles belong to the whole cluster and the lock to one database: two databases that are
# migrated at once may meet at the role ("tuple concurrently updated" is an internal error).
RETRYABLE_ERRORS = (
    asyncpg.UniqueViolationError,
    asyncpg.DuplicateObjectError,
    asyncpg.InternalServerError,
)

Report: TypeAlias = Callable[[str], None]

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_UP = re.compile(r"^-- migrate:up\s*$(.*?)(?=^-- migrate:down|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def up(self) -> str:
        match = _UP.search(self.text)
        if match is None:
            raise MigrationFailed(f"migration {self.name} has no `-- migrate:up`")
        return match.group(1)


def read_migrations() -> list[Migration]:
    """The files beside this one, by number."""
    found = []
    for file in files("central.migrations").iterdir():
        match = _FILE_NAME.fullmatch(file.name)
        if match is not None:
            found.append(Migration(int(match[1]), file.name, file.read_text("utf-8")))
    return sorted(found, key=lambda migration: migration.number)


async def migrate(
    settings: MigrateSettings,
    report: Report,
    migrations: Sequence[Migration] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Brings the database to this version. Raises `MigrationFailed`."""
    steps = read_migrations() if migrations is None else migrations
    try:
        connection = await asyncpg.connect(
            settings.owner_url,
            timeout=CONNECT_TIMEOUT_S,
            statement_cache_size=0,
            server_settings=session_settings(settings.owner_url, "texera-cu-central migrate"),
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        where = without_secrets(settings.owner_url)
        raise MigrationFailed(
            f"cannot connect to {where}: {str(error) or type(error).__name__}"
        ) from error
    try:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                async with connection.transaction():
                    await _apply(connection, steps, report)
                    await prepare_role(connection, settings.role_url, report)
                return
            except RETRYABLE_ERRORS:
                if attempt == MAX_ATTEMPTS:
                    raise
                await sleep(0.1 * attempt)
    except asyncpg.PostgresError as error:
        raise MigrationFailed(explain(error)) from error
    finally:
        await connection.close(timeout=CONNECT_TIMEOUT_S)


async def _apply(
    connection: "asyncpg.Connection[asyncpg.Record]", steps: Sequence[Migration], report: Report
) -> None:
    queries = load("migrations")
    await connection.execute(queries["lock_migrations"].text, ADVISORY_LOCK)
    if not await connection.fetchval(queries["has_texera_schema"].text):
        raise MigrationFailed(
            "this database has no table texera_db.workflow_executions: is it Texera's database?"
        )
    await connection.execute(queries["create_migrations"].text)
    rows = await connection.fetch(queries["applied_migrations"].text)
    applied = {row["number"]: row["checksum"] for row in rows}
    for step in steps:
        if step.number in applied:
            if applied[step.number] != step.checksum:
                raise MigrationFailed(
                    f"migration {step.name} is not what was applied to this database: "
                    "applied migrations are never edited, add a new one"
                )
            continue
        try:
            await connection.execute(step.up)
        except asyncpg.PostgresError as error:
            raise MigrationFailed(f"migration {step.name}: {explain(error)}") from error
        await connection.execute(
            queries["record_migration"].text, step.number, step.name, step.checksum
        )
        report(f"applied {step.name}")
    report(f"schema cu_metadata is at {max((s.number for s in steps), default=0):04d}")


def explain(error: asyncpg.PostgresError) -> str:
    """The database's own sentence, with its hint where there is one."""
    hint = getattr(error, "hint", None)
    return f"{error.args[0]} ({hint})" if hint else str(error.args[0])
