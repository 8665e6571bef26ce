"""The wire of `/api/internal/execution-metadata`, as clients of Texera's own proposal speak it.

camelCase, and whatever such a client sends besides is ignored: it was not written for us. Names
begin with DropIn because they stand in one OpenAPI document with those of `/v1`.
"""

from typing import Annotated

import msgspec

from kit.http.validation import Id, ShortText, Text
from sidecar.wire.v1 import PORT_NUMBER_MAX, OperatorId, PortId, StatusValue


class Lenient(msgspec.Struct, frozen=True, rename="camel"):
    """Base of all: unknown fields are ignored."""


class EidPath(Lenient, frozen=True):
    eid: Id


class LatestQuery(Lenient, frozen=True):
    wid: Id
    cuid: Id


class PortResultQuery(Lenient, frozen=True):
    op_id: Text
    port_id: Annotated[int, msgspec.Meta(ge=0, le=PORT_NUMBER_MAX)] = 0
    internal: bool = False


class DropInCreate(Lenient, frozen=True):
    """`uid` may be left to the token; another's is refused."""

    workflow_id: Id
    environment_version: ShortText
    computing_unit_id: Id
    uid: Id | None = None
    execution_name: ShortText | None = None


class DropInCreated(Lenient, frozen=True):
    eid: int


class DropInRuntimeStatsUri(Lenient, frozen=True):
    workflow_id: Id
    uri: Text


class DropInOperatorConsole(Lenient, frozen=True):
    operator_id: OperatorId
    uri: Text


class DropInPortResult(Lenient, frozen=True):
    global_port_id: PortId
    uri: Text


class DropInStatusChange(Lenient, frozen=True):
    status: StatusValue


class DropInUri(Lenient, frozen=True):
    uri: str


class DropInUriList(Lenient, frozen=True):
    uris: list[str]


class DropInDurable(Lenient, frozen=True):
    """The write is in the spool. Clients of old look at the status only."""

    write_id: str
    state: str
