"""The rows a run left in Texera's tables, in a form in which two runs can be compared.

The rule: two runs of one workflow file on one unit leave the same rows, but for

- the execution's id, which stands as `{eid}` here wherever it occurs, in URIs as well;
- `starting_time` and `last_update_time`, whose clocks differ: of them it is only kept that both are
  set and in order.
"""

import re
from dataclasses import dataclass
from typing import Any

import asyncpg

_TIMES = ("starting_time", "last_update_time")


@dataclass(frozen=True)
class RunRows:
    """One execution's row and those of its two registries, without what may differ."""

    execution: dict[str, Any]
    ports: list[dict[str, Any]]
    consoles: list[dict[str, Any]]


async def fetch_run_rows(connection: asyncpg.Connection, execution_id: int) -> RunRows | None:
    """What is stored for this execution now; None if there is no such row."""
    execution = await connection.fetchrow(
        "SELECT * FROM texera_db.workflow_executions WHERE eid = $1", execution_id
    )
    if execution is None:
        return None
    ports = await connection.fetch(
        "SELECT * FROM texera_db.operator_port_executions"
        " WHERE workflow_execution_id = $1 ORDER BY global_port_id",
        execution_id,
    )
    consoles = await connection.fetch(
        "SELECT * FROM texera_db.operator_executions"
        " WHERE workflow_execution_id = $1 ORDER BY operator_id",
        execution_id,
    )
    started, updated = (execution[name] for name in _TIMES)
    row = {name: value for name, value in execution.items() if name not in _TIMES}
    row["times_in_order"] = updated is not None and started <= updated
    return RunRows(
        execution=_without_id(row, execution_id),
        ports=[_without_id(dict(port), execution_id) for port in ports],
        consoles=[_without_id(dict(console), execution_id) for console in consoles],
    )


def _without_id(row: dict[str, Any], execution_id: int) -> dict[str, Any]:
    in_uri = re.compile(rf"/eid/{execution_id}/")
    return {name: _masked(name, value, in_uri) for name, value in row.items()}


def _masked(name: str, value: Any, in_uri: re.Pattern[str]) -> Any:
    if name in {"eid", "workflow_execution_id"}:
        return "{eid}"
    return in_uri.sub("/eid/{eid}/", value) if isinstance(value, str) else value
