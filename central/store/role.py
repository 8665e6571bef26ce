"""The service's role and its session, as the database reports them, for `doctor`."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from central.store.database import Database
from central.store.queries import load


class SessionFacts(msgspec.Struct, frozen=True):
    role: str
    server_version: int
    database_now: datetime
    is_encrypted: bool
    missing_timeouts: Sequence[str]
    excess_rights: Sequence[str]
    is_migrated: bool


class Privilege(msgspec.Struct, frozen=True, order=True):
    """`column` is "" for a privilege on the whole table."""

    table: str
    privilege: str
    column: str

    def __str__(self) -> str:
        column = f" ({self.column})" if self.column else ""
        return f"{self.privilege}{column} on {self.table}"


class RoleInspection:
    """Reads only. Raises `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("role")

    async def session(self) -> SessionFacts:
        (row,) = await self._database.read(self._queries["session_facts"])
        return SessionFacts(**dict(row))

    async def held_privileges(self) -> set[Privilege]:
        rows = await self._database.read(self._queries["held_privileges"])
        return {Privilege(r["table_name"], r["privilege"], r["column_name"]) for r in rows}

    async def unreadable_tables(self) -> list[str]:
        rows = await self._database.read(self._queries["unreadable_tables"])
        return [row["table_name"] for row in rows]

    async def migrations(self) -> dict[int, str]:
        """Checksums of the applied migrations, by number."""
        rows = await self._database.read(self._queries["recorded_migrations"])
        return {row["number"]: row["checksum"] for row in rows}
