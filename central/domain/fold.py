"""The fold: what a list of writes does to a list of executions, decided in one pure function.

Every rule about right and wrong writes is in this file, and nothing in it touches a database or a
clock: facts and entries go in, outcomes and the columns to write come out. Both ways of applying a
batch, the single call and the isolation of failures run it. Folding is associative: entries folded
one by one give the same as folded together.

## Who may write

The source must be bound to the execution, for a user who is REGULAR or ADMIN. A deleted
row, a missing or revoked binding and a demoted user refuse the entry for good. A row that another
transaction has locked, or that the database fails, defers its entries, all of them, even the
invalid ones, so that they keep their order when they are sent again. A source that was bound after
the end (`may_set_status` is false) may write everything but the status, which only the run's own
source knows.

## Statuses

            +--------- the last of them counts ---------+
            v                                           |
    READY, RUNNING, PAUSED, ... (non-terminal) ---------+
            |                             |
            | a terminal status           | closed as an orphan
            v                             v
    COMPLETED, FAILED, KILLED <------- FAILED (provisional)
            |                 the source's first terminal status,
            |                 whenever it was made
            +-- KILLED --> COMPLETED, from the source that killed it

Several components of Texera set statuses concurrently. A terminal status is final; an entry that
comes after it has these cases (the sidecar previews them for pending reads: `_may_follow` in
`sidecar/cache/pending.py`):

- the same status: applied, nothing changes;
- a non-terminal status: refused as `late`, ordinary and never stored;
- COMPLETED after KILLED from the same source: stored. Texera's synchronous API ends an execution
  whose targets are ready in these two steps;
- any terminal status after a provisional FAILED: stored;
- another terminal status: refused as `status-conflict`, which names the winner.

Transient statuses (PAUSING, RESUMING, every state without a code of its own) are accepted and not
stored, even after the end. `last_update_time` becomes the database's now minus the age of the
youngest stored status; the store never moves it backwards. An update is applied or refused as a
whole. Columns other than the status are also written after the end.

## URIs

Only the text that Texera mints for the row is accepted (`kit/texera/uris.py`); any other is a
`uri-mismatch`. Rows of ports and operators are write-once: the same URI again is applied, one that
fits while another is stored is a `uri-conflict`, a row without one (NULL or empty) is filled.
`runtime_stats_uri` is a plain column in Texera (written by an UPDATE, not an
INSERT), so that the last one that fits counts. A size needs a stored row. `delete_uris` returns the
rows that it removed; later entries find none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from central import problems
from central.domain.uri_registry import Registry, RegistryChange, UriRow
from central.wire.entries import (
    AnyEntry,
    DeleteUris,
    InvalidEntry,
    PutConsole,
    PutOperatorCosts,
    PutPortResult,
    Removed,
    RemovedConsole,
    RemovedResult,
    SetConsoleBytes,
    SetPortResultBytes,
    UpdateExecution,
)
from kit.http.problems import Problem
from kit.texera.statuses import (
    TERMINAL_CODES,
    TRANSIENT_CODE,
    Status,
    parse_status,
    status_of_code,
)
from kit.texera.uris import UriMinter, is_same_uri

MAX_AGE_MS = 7 * 24 * 3600 * 1000
"""A greater age is a wrong clock."""


class WriterStatus(Enum):
    """Whether a source may write to an execution."""

    WRITER = auto()
    NOT_BOUND = auto()
    REVOKED = auto()
    DEMOTED = auto()
    OTHER_UNIT = auto()
    """The source's workload token is of another computing unit."""
    BLOCKED = auto()
    """Its entries are deferred: another transaction holds the row's lock, or an earlier entry of it
    was deferred because the database fails the row."""


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of an execution before its entries are folded."""

    execution_id: int
    writer_status: WriterStatus
    user_id: int | None = None
    computing_unit_id: int | None = None
    """For the log alone: None where it was not read."""
    workflow_id: int = 0
    warehouse: str | None = None
    may_set_status: bool = True
    """False for a source that was bound after the end."""
    status: int = 0
    ended_by: str | None = None
    """The source that set the stored terminal status, if known."""
    ended_provisionally: bool = False
    results: Mapping[str, UriRow] = {}
    consoles: Mapping[str, UriRow] = {}


class ExecutionChange(msgspec.Struct, gc=False):
    """The columns of one execution that entries set. None (or UNSET) is not set."""

    status: int | None = None
    status_age_ms: int | None = None
    result: str | None = None
    log_location: str | UnsetType | None = UNSET
    runtime_stats_uri: str | None = None
    runtime_stats_bytes: int | None = None
    name: str | None = None
    bookmarked: bool | None = None


@dataclass(frozen=True, slots=True)
class Changes:
    """The rows to write, by table. A registry change of None deletes the row."""

    executions: dict[int, ExecutionChange] = field(default_factory=dict)
    results: dict[tuple[int, str], RegistryChange | None] = field(default_factory=dict)
    consoles: dict[tuple[int, str], RegistryChange | None] = field(default_factory=dict)
    operator_costs: dict[int, dict[str, float]] = field(default_factory=dict)


class EntryOutcome(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one entry, and its user if a binding names one."""

    entry: AnyEntry | InvalidEntry
    kind: Literal["applied", "refused", "deferred"]
    problem: Problem | None = None
    removed: Removed | None = None
    user_id: int | None = None


@dataclass(frozen=True, slots=True)
class FoldResult:
    """Outcomes in the order of the entries, and the changes to write."""

    outcomes: list[EntryOutcome]
    changes: Changes
    _before: Mapping[int, Execution]
    _states: Mapping[int, "_ExecutionState"]

    def after(self) -> dict[int, Execution]:
        """The executions after the changes."""
        changed = {execution_id: state.after() for execution_id, state in self._states.items()}
        return {**self._before, **changed}


def fold(
    source_id: str,
    executions: Mapping[int, Execution],
    entries: Iterable[AnyEntry | InvalidEntry],
    sent_at_ms: int,
) -> FoldResult:
    """Applies `entries`, in this order, to `executions`. A missing execution is a deleted one."""
    states: dict[int, _ExecutionState] = {}
    outcomes: list[EntryOutcome] = []
    for entry in entries:
        execution = executions.get(entry.execution_id)
        user_id = execution.user_id if execution else None
        try:
            if execution and execution.writer_status is WriterStatus.BLOCKED:
                outcomes.append(EntryOutcome(entry, "deferred", user_id=user_id))
                continue
            if isinstance(entry, InvalidEntry):
                raise entry.problem
            if execution is None:
                raise problems.ExecutionNotFound(f"there is no execution {entry.execution_id}")
            _check_writer(execution)
            state = states.get(entry.execution_id)
            if state is None:
                state = states[entry.execution_id] = _ExecutionState(source_id, execution)
            removed = state.apply(entry, min(max(sent_at_ms - entry.made_at_ms, 0), MAX_AGE_MS))
            outcomes.append(EntryOutcome(entry, "applied", removed=removed, user_id=user_id))
        except Problem as problem:
            outcomes.append(EntryOutcome(entry, "refused", problem=problem, user_id=user_id))
    return FoldResult(outcomes, _changes(states), executions, states)


def _check_writer(execution: Execution) -> None:
    execution_id = execution.execution_id
    match execution.writer_status:
        case WriterStatus.NOT_BOUND:
            raise problems.NotBound(f"this source is not bound to execution {execution_id}")
        case WriterStatus.REVOKED:
            raise problems.BindingRevoked(f"the binding to execution {execution_id} was revoked")
        case WriterStatus.OTHER_UNIT:
            raise problems.WrongComputingUnit(f"execution {execution_id} is another unit's")
        case WriterStatus.DEMOTED:
            raise problems.UserDemoted(f"user {execution.user_id} may no longer write")


class _ExecutionState:
    """One execution while its entries are folded, and the changes so far."""

    def __init__(self, source_id: str, before: Execution) -> None:
        self.before = before
        self.change = ExecutionChange()
        self.results = Registry(before.results)
        self.consoles = Registry(before.consoles)
        self.operator_costs: dict[str, float] | None = None
        self._source_id = source_id
        self._status = before.status
        self._ended_by = before.ended_by
        self._ended_provisionally = before.ended_provisionally

    def after(self) -> Execution:
        return msgspec.structs.replace(
            self.before,
            status=self._status,
            ended_by=self._ended_by,
            ended_provisionally=self._ended_provisionally,
            results=self.results.rows,
            consoles=self.consoles.rows,
        )

    def apply(self, entry: AnyEntry, age_ms: int) -> Removed | None:
        """Applies the whole entry, or raises its `Problem` and changes nothing."""
        match entry:
            case UpdateExecution():
                self._update(entry, age_ms)
            case PutPortResult():
                key = entry.global_port_id
                _check_uri("result_uri", entry.result_uri, self._minter().result_uri(key))
                self.results.put(key, entry.result_uri, entry.result_bytes)
            case PutConsole():
                key = entry.operator_id
                _check_uri("uri", entry.uri, self._minter().console_uri(key))
                self.consoles.put(key, entry.uri, entry.bytes)
            case SetPortResultBytes():
                if not self.results.resize(entry.global_port_id, entry.result_bytes):
                    raise problems.PortResultNotFound(f"no row for {entry.global_port_id}")
            case SetConsoleBytes():
                if not self.consoles.resize(entry.operator_id, entry.bytes):
                    raise problems.ConsoleNotFound(f"no row for operator {entry.operator_id}")
            case DeleteUris():
                return self._delete_uris()
            case PutOperatorCosts():
                self.operator_costs = entry.operators
        return None

    def _update(self, entry: UpdateExecution, age_ms: int) -> None:
        if entry.runtime_stats_uri is not None:
            minted = self._minter().runtime_stats_uri()
            _check_uri("runtime_stats_uri", entry.runtime_stats_uri, minted)
        if entry.status is not None:
            if not self.before.may_set_status:
                raise problems.NotTheRunner("only the sidecar that ran it may set its status")
            self._set_status(parse_status(entry.status), age_ms)
        # Nothing below can fail: an update is applied or refused as a whole.
        change = self.change
        if entry.log_location is not UNSET:
            change.log_location = entry.log_location
        if entry.result is not None:
            change.result = entry.result
        if entry.runtime_stats_uri is not None:
            change.runtime_stats_uri = entry.runtime_stats_uri
        if entry.runtime_stats_bytes is not None:
            change.runtime_stats_bytes = entry.runtime_stats_bytes
        if entry.name:  # an empty name means absent, as in Texera
            change.name = entry.name
        if entry.bookmarked is not None:
            change.bookmarked = entry.bookmarked

    def _set_status(self, status: Status, age_ms: int) -> None:
        if not self._must_store(status):
            return
        self._status = self.change.status = status.code
        self._ended_by = self._source_id if status.is_terminal else None
        self._ended_provisionally = False
        youngest = self.change.status_age_ms
        self.change.status_age_ms = age_ms if youngest is None else min(age_ms, youngest)

    def _must_store(self, status: Status) -> bool:
        """Whether the status is stored. Raises `Late` or `StatusConflict`."""
        # ## Cases
        # 1. A transient status is accepted and never stored.
        if status.code == TRANSIENT_CODE:
            return False
        # 2. The execution is open: any status is stored.
        if self._status not in TERMINAL_CODES:
            return True
        # 3. It has ended, and the status is not terminal.
        winner = status_of_code(self._status)
        if not status.is_terminal:
            raise problems.Late(f"{status} came after the execution ended as {winner}")
        # 4. It was closed as an orphan: the source's own end counts.
        if self._ended_provisionally:
            return True
        # 5. It has ended with this status.
        if status is winner:
            return False
        # 6. Its own source completes what it killed.
        is_own_end = self._ended_by == self._source_id
        if (winner, status) == (Status.KILLED, Status.COMPLETED) and is_own_end:
            return True
        # 7. Another end.
        raise problems.StatusConflict(f"the execution ended as {winner}", winner=winner)

    def _minter(self) -> UriMinter:
        return UriMinter(self.before.workflow_id, self.before.execution_id, self.before.warehouse)

    def _delete_uris(self) -> Removed:
        return Removed(
            [RemovedResult(key, row.uri, row.size_bytes) for key, row in self.results.clear()],
            [RemovedConsole(key, row.uri, row.size_bytes) for key, row in self.consoles.clear()],
        )


def _check_uri(name: str, uri: str, minted: str) -> None:
    if not is_same_uri(uri, minted):
        raise problems.UriMismatch(f"{name}: expected {minted}")


def _changes(states: Mapping[int, _ExecutionState]) -> Changes:
    changes = Changes()
    unchanged = ExecutionChange()
    for execution_id, state in sorted(states.items()):
        if state.change != unchanged:
            changes.executions[execution_id] = state.change
        for key, change in sorted(state.results.changes.items()):
            changes.results[execution_id, key] = change
        for key, change in sorted(state.consoles.changes.items()):
            changes.consoles[execution_id, key] = change
        if state.operator_costs is not None:
            changes.operator_costs[execution_id] = state.operator_costs
    return changes
