"""The wire of forwarded calls: central responds while the CU waits, and nothing is cached.

Requests are validated as central will validate them. Responses are decoded, so that fields of a
newer central are dropped.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from kit.texera.fields import (
    BootId,
    ComputingUnitId,
    ExecutionId,
    ExportedOperatorId,
    PortNumber,
    SelectedIds,
    Text,
    TtlSeconds,
    WorkflowId,
)
from sidecar.wire.v1 import Execution, Parameters, Request


class WorkflowExecutionPath(Parameters, frozen=True):
    workflow_id: WorkflowId
    execution_id: ExecutionId


class ComputingUnitPath(Parameters, frozen=True):
    computing_unit_id: ComputingUnitId


class ExpiredQuery(Parameters, frozen=True):
    ttl_seconds: TtlSeconds
    limit: Annotated[int, Meta(ge=1, le=500)] = 100


class Selection(Request, frozen=True):
    """Executions of one workflow."""

    workflow_id: WorkflowId
    execution_ids: SelectedIds


class BookmarkSelection(Selection, frozen=True):
    bookmarked: bool


class ExpiredSelection(Request, frozen=True):
    execution_ids: SelectedIds


class ExportedOperator(Request, frozen=True):
    id: ExportedOperatorId
    output_type: Annotated[
        str,
        Meta(
            pattern=r"^[^\x00/\\]+$",
            max_length=32,
            description="csv, arrow, html, data, parquet; others mean csv",
        ),
    ]
    port_id: PortNumber = 0


class ExportRequest(Request, frozen=True):
    """Operators whose results of the workflow's latest run on the unit are to be exported."""

    computing_unit_id: ComputingUnitId
    operators: Annotated[list[ExportedOperator], Meta(min_length=1, max_length=1000)]
    file_name: Annotated[Text, Meta(max_length=1024)] | None = None


class DeletedExecution(msgspec.Struct, frozen=True):
    """A deleted execution and the URIs it had: the caller drops their tables."""

    execution_id: int
    uris: list[str]


class DeletedExecutions(msgspec.Struct, frozen=True):
    deleted: list[DeletedExecution]


class BookmarkedExecutions(msgspec.Struct, frozen=True):
    execution_ids: list[int]
    bookmarked: bool


class ExpiredExecutions(msgspec.Struct, frozen=True):
    executions: list[Execution]


class BootRequest(Request, frozen=True):
    boot_id: BootId


class ClosedExecutions(msgspec.Struct, frozen=True):
    """Executions of earlier master processes, which this call ended as FAILED."""

    closed: list[int]


class ClearedExecutions(msgspec.Struct, frozen=True):
    cleared: list[int]


class Version(msgspec.Struct, frozen=True):
    workflow_id: int
    version_id: int


class PlannedOperator(msgspec.Struct, frozen=True):
    """`uri` is null for an operator without a result and for a blocked one."""

    id: str
    uri: str | None
    file_name: str
    blocked: bool
    blocked_by: list[str]


class ExportPlan(msgspec.Struct, frozen=True):
    """Null ids: the workflow has no execution on the unit, or no version."""

    execution_id: int | None
    version_id: int | None
    operators: list[PlannedOperator]
