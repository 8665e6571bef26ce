"""What the calls answer. Members of a newer sidecar are left out; moments are aware, in UTC."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewExecution:
    """An execution that was just created, READY and bound to the sidecar."""

    execution_id: int
    workflow_id: int
    version_id: int
    computing_unit_id: int
    user_id: int
    status: str
    status_code: int
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Execution:
    """A row of Texera's table, with what this sidecar still has to deliver applied."""

    execution_id: int
    workflow_id: int
    version_id: int
    computing_unit_id: int | None
    user_id: int
    status: str
    status_code: int
    result: str | None
    name: str
    bookmarked: bool
    environment_version: str
    log_location: str | None
    runtime_stats_uri: str | None
    runtime_stats_bytes: int
    started_at: datetime
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class ExecutionPage:
    """Executions, newest first; `next_before` asks for those after them, None at the end."""

    executions: list[Execution]
    next_before: int | None


@dataclass(frozen=True, slots=True)
class Write:
    """Where a write stands: durable, committed, or refused with its problem."""

    write_id: str
    state: str
    execution_id: int | None = None
    op: str | None = None
    problem: Mapping[str, Any] | None = None
    removed: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ResultUri:
    uri: str
    global_port_id: str
    result_bytes: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A URI with the size of what it names."""

    uri: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Uris:
    """All that is stored of an execution: results by global port id, consoles by operator."""

    results: dict[str, Stored]
    console: dict[str, Stored]
    runtime_stats: Stored | None


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed; rows of earlier releases may have lacked a URI or a size."""

    results: dict[str, tuple[str | None, int | None]]
    console: dict[str, tuple[str | None, int | None]]


@dataclass(frozen=True, slots=True)
class OperatorCosts:
    """Seconds per operator; None where only a statistics document can tell."""

    execution_id: int
    runtime_stats_uri: str | None
    operators: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class PlannedOperator:
    id: str
    uri: str | None
    file_name: str
    blocked: bool
    blocked_by: list[str]


@dataclass(frozen=True, slots=True)
class ExportPlan:
    execution_id: int | None
    version_id: int | None
    operators: list[PlannedOperator]


def read(kind: type[T], answer: Mapping[str, Any]) -> T:
    """The members that `kind` knows; moments decoded."""
    known = {
        field.name: _moment(field.name, answer[field.name])
        for field in fields(kind)  # type: ignore[arg-type]
        if field.name in answer
    }
    return kind(**known)


def read_page(answer: Mapping[str, Any]) -> ExecutionPage:
    return ExecutionPage(read_executions(answer), answer["next_before"])


def read_executions(answer: Mapping[str, Any]) -> list[Execution]:
    return [read(Execution, row) for row in answer["executions"]]


def read_uris(answer: Mapping[str, Any]) -> Uris:
    stats = answer["runtime_stats"]
    return Uris(
        {r["global_port_id"]: Stored(r["uri"], r["result_bytes"]) for r in answer["results"]},
        {row["operator_id"]: Stored(row["uri"], row["bytes"]) for row in answer["console"]},
        read(Stored, stats) if stats is not None else None,
    )


def read_removed(answer: Mapping[str, Any]) -> Removed:
    return Removed(
        {row["global_port_id"]: (row["uri"], row["result_bytes"]) for row in answer["results"]},
        {row["operator_id"]: (row["uri"], row["bytes"]) for row in answer["console"]},
    )


def read_plan(answer: Mapping[str, Any]) -> ExportPlan:
    operators = [read(PlannedOperator, operator) for operator in answer["operators"]]
    return ExportPlan(answer["execution_id"], answer["version_id"], operators)


def _moment(name: str, value: Any) -> Any:
    return datetime.fromisoformat(value) if name.endswith("_at") and value is not None else value
