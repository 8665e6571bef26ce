"""Execution metadata by plain SQL, statement for statement as Texera's computing unit does today.

The reference for the sidecar: its rows are the ones a run must leave, its statements the ones that
the sidecar saves. Its inefficiencies are kept on purpose: all ids are fetched and the largest is
taken here; a change of status reads a row and writes every column back; every size is preceded by a
look-up. Nothing is in a transaction, so each statement is one.

Where sidecar and central differ on purpose, and why the rows of a finished run are equal:

- a row is born READY (0) there, with the column's default 1 (RUNNING) here: the run's first status
  overwrites either;
- PAUSING and RESUMING are never stored there, as -1 here: PAUSED and RUNNING follow at once;
- no name, or an empty one, is "Untitled Execution" in both;
- the user is the token's there, an argument here;
- times are the database's there, this process's clock (UTC) here: rows are compared without
  them.
"""

import re
from collections import Counter
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import asyncpg

from dev.metadata_backend import NewExecution, RefusedCall

CODES = {"READY": 0, "RUNNING": 1, "PAUSED": 2, "COMPLETED": 3, "FAILED": 4, "KILLED": 5}
NO_CODE = -1
"""Stored by Texera for PAUSING, RESUMING and other states without a code."""

_UPDATE_EVERY_COLUMN = """
UPDATE texera_db.workflow_executions
   SET vid = $2, uid = $3, cuid = $4, status = $5, result = $6, starting_time = $7,
       last_update_time = $8, bookmarked = $9, name = $10, environment_version = $11,
       log_location = $12, runtime_stats_uri = $13, runtime_stats_size = $14
 WHERE eid = $1
"""
_COLUMNS = (
    "eid, vid, uid, cuid, status, result, starting_time, last_update_time, bookmarked, name, "
    "environment_version, log_location, runtime_stats_uri, runtime_stats_size"
)
_RESULT = re.compile(
    r"vfs:///(?:wh/[^/]+/)?wid/\d+/eid/\d+/globalportid/"
    r"\(logicalOpId=([^,]+),layerName=[^,]+,portId=(\d+),isInternal=false,isInput=[^)]+\)/result",
)


_SELECT_RESULTS = (
    "SELECT result_uri FROM texera_db.operator_port_executions WHERE workflow_execution_id = $1"
)
_SELECT_CONSOLES = (
    "SELECT console_messages_uri FROM texera_db.operator_executions"
    " WHERE workflow_execution_id = $1"
)


class DirectSqlBackend:
    """One computing unit's connection to the database. An async context manager.

    `statements` counts the statements by their first word.
    """

    def __init__(self, database_url: str, user_id: int) -> None:
        self._database_url = database_url
        self._user_id = user_id
        self.statements: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        self._connection = await asyncpg.connect(self._database_url)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connection.close()

    async def latest_execution(self, workflow_id: int, computing_unit_id: int) -> int | None:
        rows = await self._fetch(
            "SELECT e.eid FROM texera_db.workflow_executions e"
            " JOIN texera_db.workflow_version v ON v.vid = e.vid"
            " WHERE v.wid = $1 AND e.cuid = $2",
            workflow_id,
            computing_unit_id,
        )
        return max((row["eid"] for row in rows), default=None)

    async def clear_uris(self, execution_id: int) -> None:
        for statement in (
            _SELECT_RESULTS,
            _SELECT_CONSOLES,
            "DELETE FROM texera_db.operator_executions WHERE workflow_execution_id = $1",
            "DELETE FROM texera_db.operator_port_executions WHERE workflow_execution_id = $1",
            "SELECT runtime_stats_uri FROM texera_db.workflow_executions WHERE eid = $1",
        ):
            await self._fetch(statement, execution_id)

    async def create_execution(self, new: NewExecution) -> int:
        versions = await self._fetch(
            "SELECT vid FROM texera_db.workflow_version WHERE wid = $1", new.workflow_id
        )
        if not versions:
            versions = await self._fetch(
                "INSERT INTO texera_db.workflow_version (wid, content) VALUES ($1, '[]')"
                " RETURNING vid",
                new.workflow_id,
            )
        values: dict[str, Any] = {
            "vid": max(row["vid"] for row in versions),
            "uid": self._user_id,
            "cuid": new.computing_unit_id,
            "starting_time": _now(),
            "environment_version": new.environment_version,
        }
        if new.name:
            values["name"] = new.name
        places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
        created = await self._fetch(
            f"INSERT INTO texera_db.workflow_executions ({', '.join(values)})"  # noqa: S608
            f" VALUES ({places}) RETURNING eid",
            *values.values(),
        )
        return int(created[0]["eid"])

    async def store_status(self, execution_id: int, status: str) -> None:
        [row] = await self._fetch(
            f"SELECT {_COLUMNS} FROM texera_db.workflow_executions WHERE eid = $1",  # noqa: S608
            execution_id,
        )
        changed = dict(row) | {"status": CODES.get(status, NO_CODE), "last_update_time": _now()}
        await self._fetch(_UPDATE_EVERY_COLUMN, *changed.values())

    async def store_runtime_stats_uri(self, workflow_id: int, execution_id: int, uri: str) -> None:
        await self._fetch(
            "UPDATE texera_db.workflow_executions SET runtime_stats_uri = $3 WHERE eid = $2"
            " AND vid IN (SELECT vid FROM texera_db.workflow_version WHERE wid = $1)",
            workflow_id,
            execution_id,
            uri,
        )

    async def store_runtime_stats_bytes(self, execution_id: int, size_bytes: int) -> None:
        await self._fetch(
            "SELECT runtime_stats_uri FROM texera_db.workflow_executions WHERE eid = $1",
            execution_id,
        )
        await self._fetch(
            "UPDATE texera_db.workflow_executions SET runtime_stats_size = $2 WHERE eid = $1",
            execution_id,
            size_bytes,
        )

    async def store_port_result(self, execution_id: int, port: str, uri: str) -> None:
        await self._fetch(
            "INSERT INTO texera_db.operator_port_executions"
            " (workflow_execution_id, global_port_id, result_uri) VALUES ($1, $2, $3)",
            execution_id,
            port,
            uri,
        )

    async def store_result_bytes(self, execution_id: int, port: str, size_bytes: int) -> None:
        await self._fetch(
            "UPDATE texera_db.operator_port_executions SET result_size = $3"
            " WHERE workflow_execution_id = $1 AND global_port_id = $2",
            execution_id,
            port,
            size_bytes,
        )

    async def store_console(self, execution_id: int, operator_id: str, uri: str) -> None:
        await self._fetch(
            "INSERT INTO texera_db.operator_executions"
            " (workflow_execution_id, operator_id, console_messages_uri) VALUES ($1, $2, $3)",
            execution_id,
            operator_id,
            uri,
        )

    async def store_console_bytes(
        self, execution_id: int, operator_id: str, size_bytes: int | None
    ) -> None:
        """The look-up is made for every operator, also for those that never print."""
        found = await self._fetch(
            "SELECT console_messages_uri FROM texera_db.operator_executions"
            " WHERE workflow_execution_id = $1 AND operator_id = $2",
            execution_id,
            operator_id,
        )
        if found and size_bytes is not None:
            await self._fetch(
                "UPDATE texera_db.operator_executions SET console_messages_size = $3"
                " WHERE workflow_execution_id = $1 AND operator_id = $2",
                execution_id,
                operator_id,
                size_bytes,
            )

    async def result_uris(self, execution_id: int) -> list[str]:
        rows = await self._fetch(
            "SELECT result_uri FROM texera_db.operator_port_executions"
            " WHERE workflow_execution_id = $1",
            execution_id,
        )
        return [row["result_uri"] for row in rows if row["result_uri"] is not None]

    async def result_uri(self, execution_id: int, operator_id: str, port: int) -> str | None:
        """All URIs of the execution are fetched and parsed until one matches."""
        for uri in await self.result_uris(execution_id):
            match = _RESULT.fullmatch(uri)
            if match and match[1] == operator_id and int(match[2]) == port:
                return uri
        return None

    async def wait_delivered(self) -> list[RefusedCall]:
        """Every statement was committed when it returned."""
        return []

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        self.statements[statement.split(maxsplit=1)[0]] += 1
        return await self._connection.fetch(statement, *arguments)


def _now() -> datetime:
    """UTC without a zone, as the columns want it."""
    return datetime.now(UTC).replace(tzinfo=None)
