"""The fold: what a list of writes does to a list of rows, decided in one pure function.

Everything that central knows about right and wrong writes is in this file, and nothing in it
touches a database or a clock: rows, bindings and entries go in, outcomes and the columns to
write come out. The batch, the single call and the entry-by-entry fallback all apply the same
fold, and folding entries one by one gives what folding them together gives.

Who may write. The source must hold an unrevoked binding to the execution, for a user who is
still REGULAR or ADMIN. A row that is gone, a binding that is missing or revoked and a user
who was demoted are answers, not troubles: the entry is refused for good. A row that someone
else has locked is a trouble: its entries are deferred, all of them, so that their order holds
when they come again.

Statuses. Several sources of truth race in Texera (TEXERA.md section 2), so:
- A terminal status (COMPLETED, FAILED, KILLED) is final. The same one again succeeds and
  changes nothing. A non-terminal one after it is `late`: ordinary, refused, never stored.
  Another terminal one is a `status-conflict` that names the winner.
- KILLED may become COMPLETED, from the source that killed it: Texera's synchronous API ends a
  run whose targets are ready in just these two steps.
- FAILED written by the closer of orphans is provisional. The first terminal status of the
  bound source replaces it, whenever that one was made; until then non-terminal ones are late.
- Between non-terminal statuses the last word counts. Transient ones (PAUSING, RESUMING, every
  state without a code of its own) are accepted and not stored, even after the end.
- `last_update_time` becomes the database's now minus the age of the youngest stored status;
  the store never moves it backwards.
- An update is applied or refused as a whole. Other columns are taken after the end as before.

URIs. Only the text that Texera mints for the row fits it (`kit.vfs`), anything else is a
`uri-mismatch`. The rows of ports and operators are write-once: the same URI again is applied,
one that fits while another is stored is a `uri-conflict`, a row without one (NULL or empty)
is filled. `runtime_stats_uri` is a plain column to Texera (row 5 of TEXERA.md section 1: an
UPDATE, not an INSERT), so the last one that fits counts: with one fitting text per execution
that can only repair a foreign value. A size needs a row to belong to. `delete_uris` answers
what it removed, and entries after it find the rows gone.
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

OLDEST_AGE_MS = 7 * 24 * 3600 * 1000
"""An age beyond this says more about a clock than about a write."""


class WriterStatus(Enum):
    """Whether a source may write to an execution, as found once its row was locked."""

    WRITER = auto()
    NOT_BOUND = auto()
    REVOKED = auto()
    DEMOTED = auto()
    OTHER_UNIT = auto()
    """The source's pod belongs to another computing unit than the execution."""
    ROW_LOCKED = auto()
    """Someone else holds the row's lock; nothing else is known of it."""


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an execution before its entries are folded."""

    execution_id: int
    standing: WriterStatus
    user_id: int | None = None
    workflow_id: int = 0
    warehouse: str | None = None
    status: int = 0
    ended_by: str | None = None
    """The source whose word the stored terminal status is, where that is known."""
    ended_provisionally: bool = False
    results: Mapping[str, UriRow] = {}
    consoles: Mapping[str, UriRow] = {}


class ExecutionChange(msgspec.Struct, gc=False):
    """The columns of one execution that entries named. None (or UNSET) is not named."""

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
    """What is to be written, per table. A registry's change of None deletes the row."""

    executions: dict[int, ExecutionChange] = field(default_factory=dict)
    results: dict[tuple[int, str], RegistryChange | None] = field(default_factory=dict)
    consoles: dict[tuple[int, str], RegistryChange | None] = field(default_factory=dict)
    operator_costs: dict[int, dict[str, float]] = field(default_factory=dict)


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """How one entry ended, and for whom it was made where a binding says so."""

    entry: AnyEntry | InvalidEntry
    outcome: Literal["applied", "refused", "deferred"]
    problem: Problem | None = None
    removed: Removed | None = None
    user_id: int | None = None


@dataclass(frozen=True, slots=True)
class Folded:
    """Verdicts in the order of the entries, and what is to be written."""

    verdicts: list[Verdict]
    changes: Changes
    _before: Mapping[int, Execution]
    _drafts: Mapping[int, "_ExecutionState"]

    def after(self) -> dict[int, Execution]:
        """The executions as they are once the changes are written."""
        drafted = {execution_id: draft.after() for execution_id, draft in self._drafts.items()}
        return {**self._before, **drafted}


def fold(
    source_id: str,
    executions: Mapping[int, Execution],
    entries: Iterable[AnyEntry | InvalidEntry],
    sent_at_ms: int,
) -> Folded:
    """What `entries`, in this order, do to `executions`. One that is not among them is gone."""
    drafts: dict[int, _ExecutionState] = {}
    verdicts: list[Verdict] = []
    for entry in entries:
        execution = executions.get(entry.execution_id)
        user_id = execution.user_id if execution else None
        try:
            if isinstance(entry, InvalidEntry):
                raise entry.problem
            if execution is None:
                raise problems.ExecutionNotFound(f"there is no execution {entry.execution_id}")
            if execution.standing is WriterStatus.ROW_LOCKED:
                verdicts.append(Verdict(entry, "deferred", user_id=user_id))
                continue
            _check_standing(execution)
            draft = drafts.get(entry.execution_id)
            if draft is None:
                draft = drafts[entry.execution_id] = _ExecutionState(source_id, execution)
            removed = draft.apply(entry, min(max(sent_at_ms - entry.made_at_ms, 0), OLDEST_AGE_MS))
            verdicts.append(Verdict(entry, "applied", removed=removed, user_id=user_id))
        except Problem as problem:
            verdicts.append(Verdict(entry, "refused", problem=problem, user_id=user_id))
    return Folded(verdicts, _changes(drafts), executions, drafts)


def _check_standing(execution: Execution) -> None:
    execution_id = execution.execution_id
    match execution.standing:
        case WriterStatus.NOT_BOUND:
            raise problems.NotBound(f"this source is not bound to execution {execution_id}")
        case WriterStatus.REVOKED:
            raise problems.BindingRevoked(f"the binding to execution {execution_id} was revoked")
        case WriterStatus.OTHER_UNIT:
            raise problems.WrongComputingUnit(f"execution {execution_id} is another unit's")
        case WriterStatus.DEMOTED:
            raise problems.UserDemoted(f"user {execution.user_id} may no longer write")


class _ExecutionState:
    """One execution on its way from `before` to `after`, and the columns named on the way."""

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
        """Takes the entry whole, or raises its `Problem` and changes nothing."""
        match entry:
            case UpdateExecution():
                self._update(entry, age_ms)
            case PutPortResult():
                key = entry.global_port_id
                _check_uri("result_uri", entry.result_uri, self._owner().result_uri(key))
                self.results.put(key, entry.result_uri, entry.result_bytes)
            case PutConsole():
                key = entry.operator_id
                _check_uri("uri", entry.uri, self._owner().console_uri(key))
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
            minted = self._owner().runtime_stats_uri()
            _check_uri("runtime_stats_uri", entry.runtime_stats_uri, minted)
        if entry.status is not None:
            self._enter(parse_status(entry.status), age_ms)
        # Nothing below can refuse: an update is applied or refused as a whole.
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

    def _enter(self, status: Status, age_ms: int) -> None:
        if not self._is_to_be_stored(status):
            return
        self._status = self.change.status = status.code
        self._ended_by = self._source_id if status.is_terminal else None
        self._ended_provisionally = False
        youngest = self.change.status_age_ms
        self.change.status_age_ms = age_ms if youngest is None else min(age_ms, youngest)

    def _is_to_be_stored(self, status: Status) -> bool:
        if status.code == TRANSIENT_CODE:
            return False
        if self._status not in TERMINAL_CODES:
            return True
        winner = status_of_code(self._status)
        if not status.is_terminal:
            raise problems.Late(f"{status} came after the execution ended as {winner}")
        if self._ended_provisionally:
            return True
        if status is winner:
            return False
        if (winner, status) == (Status.KILLED, Status.COMPLETED) and (
            self._ended_by == self._source_id
        ):
            return True
        raise problems.StatusConflict(f"the execution ended as {winner}", winner=winner)

    def _owner(self) -> UriMinter:
        return UriMinter(self.before.workflow_id, self.before.execution_id, self.before.warehouse)

    def _delete_uris(self) -> Removed:
        return Removed(
            [RemovedResult(key, row.uri, row.size_bytes) for key, row in self.results.clear()],
            [RemovedConsole(key, row.uri, row.size_bytes) for key, row in self.consoles.clear()],
        )


def _check_uri(name: str, uri: str, minted: str) -> None:
    if not is_same_uri(uri, minted):
        raise problems.UriMismatch(f"{name}: expected {minted}")


def _changes(drafts: Mapping[int, _ExecutionState]) -> Changes:
    changes = Changes()
    untouched = ExecutionChange()
    for execution_id, draft in sorted(drafts.items()):
        if draft.change != untouched:
            changes.executions[execution_id] = draft.change
        for key, change in sorted(draft.results.changes.items()):
            changes.results[execution_id, key] = change
        for key, change in sorted(draft.consoles.changes.items()):
            changes.consoles[execution_id, key] = change
        if draft.operator_costs is not None:
            changes.operator_costs[execution_id] = draft.operator_costs
    return changes
