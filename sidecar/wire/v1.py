"""The sidecar's view of the wire: the CU's requests and the responses to them."""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kit.texera.fields import (
    ByteCount,
    ComputingUnitId,
    ExecutionId,
    Id,
    Name,
    OperatorId,
    PortId,
    PortNumber,
    StatusList,
    StatusValue,
    StoredConsoleUri,
    StoredResultUri,
    StoredStatsUri,
    Text,
    WorkflowId,
)
from kit.texera.statuses import Status, status_of_code

WAIT_MAX_S = 60

WaitSeconds: TypeAlias = Annotated[float, Meta(ge=0, le=WAIT_MAX_S)]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of paths and queries."""


class ExecutionPath(Parameters, frozen=True):
    execution_id: ExecutionId


class PortPath(Parameters, frozen=True):
    execution_id: ExecutionId
    global_port_id: PortId


class OperatorPath(Parameters, frozen=True):
    execution_id: ExecutionId
    operator_id: OperatorId


class StoredOperatorPath(Parameters, frozen=True):
    """For reads: rows of earlier Texera releases have ids that it no longer writes."""

    execution_id: ExecutionId
    operator_id: Text


class WorkflowPath(Parameters, frozen=True):
    workflow_id: WorkflowId


class WritePath(Parameters, frozen=True):
    write_id: Text


class ResultUriQuery(Parameters, frozen=True):
    operator_id: Text
    port_id: PortNumber = 0
    internal: bool = False
    wait: WaitSeconds = 0


class LatestQuery(Parameters, frozen=True):
    computing_unit_id: ComputingUnitId | None = None


class ListQuery(Parameters, frozen=True):
    computing_unit_id: ComputingUnitId | None = None
    status: StatusList | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] | None = None
    before: Id | None = None


class WritesQuery(Parameters, frozen=True):
    state: Literal["durable", "committed", "refused"] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class FlushQuery(Parameters, frozen=True):
    timeout: WaitSeconds = 30


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of bodies: unknown fields are refused."""


class NewExecutionFields(Request, frozen=True):
    workflow_id: WorkflowId
    computing_unit_id: ComputingUnitId
    environment_version: Name
    name: Name | None = None
    warehouse_id: Id | None = None


class NewExecutionRequest(NewExecutionFields, frozen=True):
    """What the CU sends; `run_token` is the sidecar's own, and never sent to central."""

    run_token: Annotated[
        bool, Meta(description="return a token that is good for this execution only")
    ] = False


class ExecutionChanges(Request, frozen=True):
    """At least one of these; null means absent, except that a null `log_location` is stored."""

    status: StatusValue | None = None
    result: Text | None = None
    log_location: Text | UnsetType | None = UNSET
    runtime_stats_uri: StoredStatsUri | None = None
    runtime_stats_bytes: ByteCount | None = None
    name: Name | None = None
    bookmarked: bool | None = None


class PortResult(Request, frozen=True):
    result_uri: StoredResultUri
    result_bytes: ByteCount | None = None


class PortResultSize(Request, frozen=True):
    result_bytes: ByteCount


class Console(Request, frozen=True):
    uri: StoredConsoleUri
    bytes: ByteCount | None = None


class ConsoleSize(Request, frozen=True):
    bytes: ByteCount


class OperatorCosts(Request, frozen=True):
    operators: Annotated[
        dict[OperatorId, Annotated[float, Meta(ge=0)]],
        Meta(description="the seconds that each operator took"),
    ]


class NewExecution(msgspec.Struct, frozen=True, omit_defaults=True):
    """The response to a create. Fields of a newer central are dropped.

    `run_token` is there if it was requested and central issues tokens of runs.
    """

    execution_id: int
    workflow_id: int
    version_id: int
    computing_unit_id: int
    user_id: int
    status: Status
    status_code: int
    started_at: str
    run_token: str | None = None


class BoundExecution(msgspec.Struct, frozen=True):
    """What the sidecar keeps of the response to a create or a binding."""

    execution_id: int
    workflow_id: int
    computing_unit_id: int | None
    user_id: int
    status_code: int
    warehouse: str | None


class Execution(msgspec.Struct, omit_defaults=True):
    """A row as central returns it, with the sidecar's pending writes applied.

    `provisional`: central closed the run as an orphan; its own end still replaces the FAILED.
    """

    execution_id: int
    workflow_id: int
    version_id: int
    computing_unit_id: int | None
    user_id: int
    status: Status
    status_code: int
    result: str | None
    name: str
    bookmarked: bool | None
    environment_version: str
    log_location: str | None
    runtime_stats_uri: str | None
    runtime_stats_bytes: int | None
    started_at: str
    updated_at: str | None
    provisional: bool = False

    def set_status(self, status: Status) -> None:
        self.status = status_of_code(status.code)
        self.status_code = status.code
        self.provisional = False


class ExecutionPage(msgspec.Struct):
    executions: list[Execution]
    next_before: int | None


class LatestCosts(msgspec.Struct):
    """Of the latest completed run. Null operators: only its statistics document has them."""

    execution_id: int
    runtime_stats_uri: str | None
    operators: dict[str, float] | None


class WriteAnswer(msgspec.Struct, omit_defaults=True):
    """The state of a write. A refused one has central's problem.

    A committed `delete_uris` has what it removed, for a caller whose wait ended with 504.
    """

    write_id: str
    state: str
    execution_id: int | None = None
    op: str | None = None
    problem: dict[str, Any] | None = None
    removed: dict[str, Any] | None = None


class Writes(msgspec.Struct):
    writes: list[WriteAnswer]


class FlushAnswer(msgspec.Struct):
    delivered: bool
    waiting: int


class ResultUri(msgspec.Struct, frozen=True):
    uri: str
    global_port_id: str
    result_bytes: int | None


class ConsoleUri(msgspec.Struct, frozen=True):
    uri: str
    bytes: int | None


class ResultRow(msgspec.Struct, frozen=True):
    global_port_id: str
    uri: str
    result_bytes: int | None


class ConsoleRow(msgspec.Struct, frozen=True):
    operator_id: str
    uri: str
    bytes: int | None


class Uris(msgspec.Struct, frozen=True):
    results: list[ResultRow]
    console: list[ConsoleRow]
    runtime_stats: ConsoleUri | None


class Removed(msgspec.Struct, frozen=True):
    """The rows that a `DELETE …/uris` removed."""

    results: list[ResultRow]
    console: list[ConsoleRow]
