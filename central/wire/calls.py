"""Central's view of the wire: requests and responses of all calls but batches (`entries`).

The sidecar may be of another version: fields are added, never renamed, and both sides read and
write the frozen samples in tests/contract.
"""

from datetime import datetime
from typing import Annotated

import msgspec

from kit.texera.fields import (
    BootId,
    ByteCount,
    ComputingUnitId,
    ExecutionId,
    Id,
    Name,
    OperatorId,
    PortId,
    PortNumber,
    SelectedIds,
    StatusList,
    StatusValue,
    StoredConsoleUri,
    StoredResultUri,
    StoredStatsUri,
    Text,
    TtlSeconds,
    WorkflowId,
)
from kit.texera.statuses import Status

# --- paths and queries


class ExecutionPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    execution_id: ExecutionId


class ComputingUnitPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    computing_unit_id: ComputingUnitId


class WorkflowPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    workflow_id: WorkflowId


class WorkflowExecutionPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    workflow_id: WorkflowId
    execution_id: ExecutionId


class OperatorPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    execution_id: ExecutionId
    operator_id: OperatorId


class StoredOperatorPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For reads: rows of earlier Texera releases have ids that it no longer writes."""

    execution_id: ExecutionId
    operator_id: Text


class PortPath(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    execution_id: ExecutionId
    global_port_id: PortId


class ResultUriQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    operator_id: Text
    port_id: PortNumber = 0
    internal: bool = False


class LatestQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    computing_unit_id: ComputingUnitId | None = None


class ListQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    computing_unit_id: ComputingUnitId | None = None
    status: Annotated[
        StatusList | None, msgspec.Meta(description="names or codes, separated by commas")
    ] = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 50
    before: Annotated[
        Id | None, msgspec.Meta(description="an execution id; older ones are returned")
    ] = None


class ExpiredQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    ttl_seconds: TtlSeconds
    limit: Annotated[int, msgspec.Meta(ge=1, le=500)] = 100


# --- bodies


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Executions of one workflow."""

    workflow_id: WorkflowId
    execution_ids: SelectedIds


class BookmarkSelection(Selection, frozen=True, forbid_unknown_fields=True):
    bookmarked: bool


class ExpiredSelection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    execution_ids: SelectedIds


class ExecutionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An execution to create. Its user is the token's."""

    workflow_id: WorkflowId
    computing_unit_id: ComputingUnitId
    environment_version: Name
    name: Name | None = None
    warehouse_id: Id | None = None
    boot_id: BootId | None = None


class ExecutionChanges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At least one of these; null means absent, except that a null `log_location` is stored."""

    status: StatusValue | None = None
    result: Text | None = None
    log_location: Text | msgspec.UnsetType | None = msgspec.UNSET
    runtime_stats_uri: StoredStatsUri | None = None
    runtime_stats_bytes: ByteCount | None = None
    name: Name | None = None
    bookmarked: bool | None = None


class PortResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    result_uri: StoredResultUri
    result_bytes: ByteCount | None = None


class PortResultSize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    result_bytes: ByteCount


class Console(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uri: StoredConsoleUri
    bytes: ByteCount | None = None


class ConsoleSize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bytes: ByteCount


class BindingRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The current boot of the sidecar's computing unit, if it has registered one."""

    boot_id: BootId | None = None


# --- responses


class Committed(msgspec.Struct, frozen=True):
    """A single-call write is in the database."""

    state: str = "committed"


class TokenFacts(msgspec.Struct, frozen=True):
    user_id: int
    role: str
    expires_at: datetime


class RunToken(msgspec.Struct, frozen=True):
    token: str
    expires_at: datetime


class NewExecution(msgspec.Struct, frozen=True):
    execution_id: int
    workflow_id: int
    version_id: int
    computing_unit_id: int
    user_id: int
    status: Status
    status_code: int
    started_at: datetime
    warehouse: str | None


class BoundExecution(msgspec.Struct, frozen=True):
    execution_id: int
    workflow_id: int
    computing_unit_id: int | None
    user_id: int
    status: Status
    status_code: int
    warehouse: str | None


class OpenBinding(msgspec.Struct, frozen=True):
    execution_id: int
    workflow_id: int
    computing_unit_id: int | None
    user_id: int
    created_at: datetime


class OpenBindings(msgspec.Struct, frozen=True):
    bindings: list[OpenBinding]


class Execution(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row of `workflow_executions`, with the workflow of its version.

    `provisional`: closed as an orphan; a terminal status of the source still replaces the FAILED.
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
    bookmarked: bool
    environment_version: str
    log_location: str | None
    runtime_stats_uri: str | None
    runtime_stats_bytes: int
    started_at: datetime
    updated_at: datetime | None
    provisional: bool = False


class ExecutionPage(msgspec.Struct, frozen=True):
    executions: list[Execution]
    next_before: int | None


class PortUri(msgspec.Struct, frozen=True):
    global_port_id: str
    uri: str
    result_bytes: ByteCount


class ConsoleUri(msgspec.Struct, frozen=True):
    operator_id: str
    uri: str
    bytes: ByteCount


class StatsUri(msgspec.Struct, frozen=True):
    uri: str
    bytes: ByteCount


class ExecutionUris(msgspec.Struct, frozen=True):
    results: list[PortUri]
    console: list[ConsoleUri]
    runtime_stats: StatsUri | None


class ResultUri(msgspec.Struct, frozen=True):
    uri: str
    global_port_id: str
    result_bytes: ByteCount


class OperatorConsole(msgspec.Struct, frozen=True):
    uri: str
    bytes: ByteCount


class DeletedExecution(msgspec.Struct, frozen=True):
    """An execution that is gone, and the URIs it had: whoever deleted it drops their tables."""

    execution_id: int
    uris: list[str]


class DeletedExecutions(msgspec.Struct, frozen=True):
    deleted: list[DeletedExecution]


class BookmarkedExecutions(msgspec.Struct, frozen=True):
    execution_ids: list[int]
    bookmarked: bool


class ExpiredExecutions(msgspec.Struct, frozen=True):
    executions: list[Execution]


class ClearedExecutions(msgspec.Struct, frozen=True):
    cleared: list[int]


class SuccessionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    statement: Annotated[
        str,
        msgspec.Meta(
            max_length=4096,
            pattern=r"^[A-Za-z0-9_.-]*$",
            description="a JWT that the new key has signed: `typ` sidecar-succession+jwt, its"
            " public key as `jwk`, the claims `aud`, `iat`, `exp` (a minute at most) and"
            " `predecessor`, the thumbprint of the calling key",
        ),
    ]


class Succession(msgspec.Struct, frozen=True):
    source_id: str
    successor_id: str


class LatestCosts(msgspec.Struct, frozen=True):
    """Of the latest completed run. Null operators: only a statistics document can tell."""

    execution_id: int
    runtime_stats_uri: str | None
    operators: dict[str, float] | None


class Version(msgspec.Struct, frozen=True):
    workflow_id: int
    version_id: int
