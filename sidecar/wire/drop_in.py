"""The wire of `/api/internal/execution-metadata`, for clients of Texera's own proposal.

Names are camelCase, and unknown fields are ignored. The types are named DropIn because they
share an OpenAPI document with those of `/v1`.
"""

import msgspec

from kit.texera.fields import (
    ComputingUnitId,
    ExecutionId,
    Id,
    Name,
    OperatorId,
    PortId,
    PortNumber,
    StatusValue,
    StoredConsoleUri,
    StoredResultUri,
    StoredStatsUri,
    Text,
    WorkflowId,
)


class Lenient(msgspec.Struct, frozen=True, rename="camel"):
    """Base of all types: unknown fields are ignored."""


class EidPath(Lenient, frozen=True):
    eid: ExecutionId


class LatestQuery(Lenient, frozen=True):
    wid: WorkflowId
    cuid: ComputingUnitId


class PortResultQuery(Lenient, frozen=True):
    op_id: Text
    port_id: PortNumber = 0
    internal: bool = False


class DropInCreate(Lenient, frozen=True):
    """`uid` is optional and must be the token's user; `runToken` is this sidecar's own."""

    workflow_id: WorkflowId
    environment_version: Name
    computing_unit_id: ComputingUnitId
    uid: Id | None = None
    execution_name: Name | None = None
    run_token: bool = False


class DropInCreated(Lenient, frozen=True, omit_defaults=True):
    eid: int
    run_token: str | None = None


class DropInRuntimeStatsUri(Lenient, frozen=True):
    workflow_id: WorkflowId
    uri: StoredStatsUri


class DropInOperatorConsole(Lenient, frozen=True):
    operator_id: OperatorId
    uri: StoredConsoleUri


class DropInPortResult(Lenient, frozen=True):
    global_port_id: PortId
    uri: StoredResultUri


class DropInStatusChange(Lenient, frozen=True):
    status: StatusValue


class DropInUri(Lenient, frozen=True):
    uri: str


class DropInUriList(Lenient, frozen=True):
    uris: list[str]


class DropInDurable(Lenient, frozen=True):
    """The write is in the spool. These clients read only the HTTP status."""

    write_id: str
    state: str
