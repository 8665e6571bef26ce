"""The interface between a computing unit and a store of execution metadata.

One method per kind of call that Texera's computing unit makes today. A run (computing_unit.py)
uses nothing else, so that the sidecar and plain SQL can be compared call by call and row by row.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class NewExecution:
    """A run to create. The user is the backend's."""

    workflow_id: int
    computing_unit_id: int
    environment_version: str
    name: str = ""


@dataclass(frozen=True)
class RefusedCall:
    """A call that failed for good, or a write that was durable and then refused."""

    call: str
    slug: str
    detail: str
    http_status: int | None = None


class CallFailed(Exception):
    """A call failed and no retry would help."""

    def __init__(self, refused: RefusedCall) -> None:
        super().__init__(f"{refused.call}: {refused.slug}: {refused.detail}")
        self.refused = refused


class Unreachable(CallFailed):
    """No response before the deadline: the run cannot go on."""


class MetadataBackend(Protocol):
    """Execution metadata as the unit sees it. Every call may raise `CallFailed`."""

    async def latest_execution(self, workflow_id: int, computing_unit_id: int) -> int | None:
        """The newest execution of the workflow on the unit."""

    async def clear_uris(self, execution_id: int) -> None:
        """Read the URIs of an earlier execution, and delete them."""

    async def create_execution(self, new: NewExecution) -> int:
        """A new execution's id."""

    async def store_status(self, execution_id: int, status: str) -> None:
        """Store the run's state."""

    async def store_runtime_stats_uri(self, workflow_id: int, execution_id: int, uri: str) -> None:
        """Store the URI of the run's statistics."""

    async def store_runtime_stats_bytes(self, execution_id: int, size_bytes: int) -> None:
        """Store the size of the run's statistics."""

    async def store_port_result(self, execution_id: int, port: str, uri: str) -> None:
        """Store the URI of the rows of this global port id."""

    async def store_result_bytes(self, execution_id: int, port: str, size_bytes: int) -> None:
        """Store the size of the rows of this global port id."""

    async def store_console(self, execution_id: int, operator_id: str, uri: str) -> None:
        """Store the URI of an operator's console messages."""

    async def store_console_bytes(
        self, execution_id: int, operator_id: str, size_bytes: int | None
    ) -> None:
        """Store the size of an operator's console; None if the operator has no console."""

    async def result_uris(self, execution_id: int) -> list[str]:
        """All result URIs stored so far: the first call of every poll."""

    async def result_uri(self, execution_id: int, operator_id: str, port: int) -> str | None:
        """The result URI of one external output port, once there is one."""

    async def wait_delivered(self) -> list[RefusedCall]:
        """Wait until every write of the run is committed or refused; returns the refused ones."""
