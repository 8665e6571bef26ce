"""What a computing unit wants of whoever keeps its execution metadata.

One method per kind of call Texera's computing unit makes today, named for what it is for. A run
(computing_unit.py) knows nothing else, so that the sidecar and plain SQL can be compared call by
call and row by row.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class NewExecution:
    """What the unit knows of a run before it has an id. The user comes with the backend."""

    workflow_id: int
    computing_unit_id: int
    environment_version: str
    name: str = ""


@dataclass(frozen=True)
class Refused:
    """A write that was taken and then turned down, or a call that went wrong for good."""

    call: str
    slug: str
    detail: str
    http_status: int | None = None


class CallFailed(Exception):
    """A call got an answer that no retry will better. `refused` says which and why."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(f"{refused.call}: {refused.slug}: {refused.detail}")
        self.refused = refused


class Unreachable(CallFailed):
    """Nobody has answered for as long as the caller's patience lasts: a run cannot go on."""


class MetadataBackend(Protocol):
    """Execution metadata as the unit sees it. Every call may raise `CallFailed`."""

    async def latest_execution(self, workflow_id: int, computing_unit_id: int) -> int | None:
        """The newest execution of the workflow on the unit."""

    async def clear_uris(self, execution_id: int) -> None:
        """Look up what an earlier execution stored, and forget it."""

    async def create_execution(self, new: NewExecution) -> int:
        """A new execution's id."""

    async def store_status(self, execution_id: int, status: str) -> None:
        """The run is in this state from now on."""

    async def store_runtime_stats_uri(self, workflow_id: int, execution_id: int, uri: str) -> None:
        """Where the run's statistics are."""

    async def store_runtime_stats_bytes(self, execution_id: int, size_bytes: int) -> None:
        """How large the statistics are by now."""

    async def store_port_result(self, execution_id: int, port: str, uri: str) -> None:
        """Where the rows of this global port id are."""

    async def store_result_bytes(self, execution_id: int, port: str, size_bytes: int) -> None:
        """How large the rows of this global port id are by now."""

    async def store_console(self, execution_id: int, operator_id: str, uri: str) -> None:
        """Where an operator's console messages are."""

    async def store_console_bytes(
        self, execution_id: int, operator_id: str, size_bytes: int | None
    ) -> None:
        """How large an operator's console is by now; None if the unit knows of no console."""

    async def result_uris(self, execution_id: int) -> list[str]:
        """All result URIs stored so far: the first question of every poll."""

    async def result_uri(self, execution_id: int, operator_id: str, port: int) -> str | None:
        """The result URI of one external output port, once there is one."""

    async def settle(self) -> list[Refused]:
        """Wait until every write of the run is committed or refused; the refused ones."""
