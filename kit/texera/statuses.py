"""The states of an execution: Texera's names and the codes it stores (`Utils.maptoStatusCode`)."""

from enum import StrEnum


class Status(StrEnum):
    """An execution's state in responses."""

    READY = "READY"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    KILLED = "KILLED"
    UNINITIALIZED = "UNINITIALIZED"
    PAUSING = "PAUSING"
    RESUMING = "RESUMING"
    TERMINATED = "TERMINATED"
    UNKNOWN = "UNKNOWN"

    @property
    def code(self) -> int:
        """The SMALLINT of `workflow_executions.status`; central never stores TRANSIENT_CODE."""
        return _CODES.get(self, TRANSIENT_CODE)

    @property
    def is_terminal(self) -> bool:
        return self.code in TERMINAL_CODES


TRANSIENT_CODE = -1
"""Texera's code for every state without a code (PAUSING, RESUMING, ...)."""

TERMINAL_CODES = frozenset({3, 4, 5})

_CODES = {
    Status.UNINITIALIZED: 0,
    Status.READY: 0,
    Status.RUNNING: 1,
    Status.PAUSED: 2,
    Status.COMPLETED: 3,
    Status.FAILED: 4,
    Status.KILLED: 5,
}
_ALSO_READY = frozenset({"UNINITIALIZED", "INITIALIZING"})  # the second is Texera's label
_STORED = {code: status for status, code in _CODES.items() if status is not Status.UNINITIALIZED}

_ONE = rf"(?:{'|'.join(Status)}|-1|[0-5])"
STATUS_LIST_SCHEMA = {"pattern": rf"^\s*{_ONE}\s*(?:,\s*{_ONE}\s*)*$"}
"""Names or codes separated by commas, for callers. Names are parsed in any case."""


def status_of_code(code: int) -> Status:
    """The status of a stored code; UNKNOWN for -1 and for codes that Texera does not have."""
    return _STORED.get(code, Status.UNKNOWN)


def parse_status(value: str | int) -> Status:
    """The status of a name (any case) or of Texera's code. Raises ValueError for neither."""
    if isinstance(value, int):
        if value == TRANSIENT_CODE or value in _STORED:
            return status_of_code(value)
        raise ValueError(value)
    name = value.upper()
    if name in _ALSO_READY:
        return Status.READY
    return Status(name)
