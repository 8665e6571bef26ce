"""The results of calls. Fields that a newer sidecar adds are ignored; times are aware, in UTC."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewExecution:
    """A created execution, READY and bound to the sidecar."""

    execution_id: int
    workflow_id: int
    version_id: int
    computing_unit_id: int
    user_id: int
    status: str
    status_code: int
    started_at: datetime
    run_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Execution:
    """A row of Texera's table, with this sidecar's undelivered writes applied."""

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
    provisional: bool = False
    """FAILED because its lease lapsed; the run's own terminal status still replaces it."""


@dataclass(frozen=True, slots=True)
class ExecutionPage:
    """Executions, newest first; `next_before` is the next page's `before`, None at the end."""

    executions: list[Execution]
    next_before: int | None


@dataclass(frozen=True, slots=True)
class Write:
    """A write's state: durable, committed, or refused with its problem."""

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
class StoredUri:
    """A URI with the size of what it names."""

    uri: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Uris:
    """All stored URIs of an execution: results by global port id, consoles by operator."""

    results: dict[str, StoredUri]
    console: dict[str, StoredUri]
    runtime_stats: StoredUri | None


@dataclass(frozen=True, slots=True)
class RemovedUris:
    """The removed rows; rows of earlier releases may lack a URI or a size."""

    results: dict[str, tuple[str | None, int | None]]
    console: dict[str, tuple[str | None, int | None]]


@dataclass(frozen=True, slots=True)
class OperatorCosts:
    """Seconds per operator; None where only a statistics document has them."""

    execution_id: int
    runtime_stats_uri: str | None
    operators: dict[str, float] | None


@dataclass(frozen=True, slots=True)
class ExportOperator:
    id: str
    uri: str | None
    file_name: str
    blocked: bool
    blocked_by: list[str]


@dataclass(frozen=True, slots=True)
class ExportPlan:
    execution_id: int | None
    version_id: int | None
    operators: list[ExportOperator]


def read(kind: type[T], document: Mapping[str, Any]) -> T:
    """An instance from the fields that `kind` has; times are parsed."""
    known = {
        field.name: _value(field.name, document[field.name])
        for field in fields(kind)  # type: ignore[arg-type]
        if field.name in document
    }
    return kind(**known)


def read_page(document: Mapping[str, Any]) -> ExecutionPage:
    return ExecutionPage(read_executions(document), document["next_before"])


def read_executions(document: Mapping[str, Any]) -> list[Execution]:
    return [read(Execution, row) for row in document["executions"]]


def read_uris(document: Mapping[str, Any]) -> Uris:
    stats = document["runtime_stats"]
    return Uris(
        {r["global_port_id"]: StoredUri(r["uri"], r["result_bytes"]) for r in document["results"]},
        {row["operator_id"]: StoredUri(row["uri"], row["bytes"]) for row in document["console"]},
        read(StoredUri, stats) if stats is not None else None,
    )


def read_removed(document: Mapping[str, Any]) -> RemovedUris:
    return RemovedUris(
        {row["global_port_id"]: (row["uri"], row["result_bytes"]) for row in document["results"]},
        {row["operator_id"]: (row["uri"], row["bytes"]) for row in document["console"]},
    )


def read_plan(document: Mapping[str, Any]) -> ExportPlan:
    operators = [read(ExportOperator, operator) for operator in document["operators"]]
    return ExportPlan(document["execution_id"], document["version_id"], operators)


def _value(name: str, value: Any) -> Any:
    return datetime.fromisoformat(value) if name.endswith("_at") and value is not None else value
