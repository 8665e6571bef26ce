"""Central in memory: its real decoders and its real fold, on dictionaries instead of Postgres.

Cursors, bindings, row locks, leases and the closer of lapsed runs follow the rules of
`central/store`, and are held against it by `tests/integration/central/test_memory_central.py`, by
random histories played to both.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from central import problems
from central.domain.fold import EntryOutcome, Execution, WriterStatus, fold
from central.wire.entries import (
    WIRE_VERSION,
    AnyEntry,
    BatchRequest,
    BatchResponse,
    InvalidEntry,
    Outcome,
    decode_batch,
    decode_entries,
    digest_of,
    op_of,
)
from central.wire.leases import (
    AbandonedExecutions,
    AbandonReason,
    ClosedExecutions,
    ExecutionList,
    LostLease,
    LostReason,
    RenewedLeases,
)
from kit.http.problems import Problem, invalid_field
from kit.http.validation import parse_body
from kit.texera.statuses import TERMINAL_CODES, Status

LEASE_S = 90.0
FAR_FUTURE_S = 2**31

_executions = msgspec.json.Decoder(ExecutionList)
_abandoned = msgspec.json.Decoder(AbandonedExecutions)


@dataclass(frozen=True)
class Cursor:
    batch: int = 0
    digest: str = ""
    response: bytes = b""
    is_stored: bool = True
    """False for a source that was unknown, whose batch applied nothing."""


@dataclass(frozen=True)
class Lease:
    source_id: str
    expires_at: float


@dataclass(frozen=True)
class Settled:
    """An entry that central has applied or refused, in the order in which it did."""

    source_id: str
    epoch: str
    seq: int
    execution_id: int
    result: str
    """`applied`, or the slug of the refusal."""
    entry: AnyEntry | InvalidEntry


@dataclass
class MemoryCentral:
    """The store. Times are the caller's, in seconds."""

    executions: dict[int, Execution] = field(default_factory=dict)
    columns: dict[int, dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    bindings: dict[tuple[int, str], str | None] = field(default_factory=dict)
    """By execution and source; the reason of its revocation."""
    runners: dict[int, str] = field(default_factory=dict)
    """The source that may set an execution's status."""
    cursors: dict[tuple[str, str], Cursor] = field(default_factory=dict)
    leases: dict[int, Lease] = field(default_factory=dict)
    locked: set[int] = field(default_factory=set)
    settled: list[Settled] = field(default_factory=list)
    executions_per_call: int = 10_000

    # Batches

    def apply(self, source_id: str, batch: BatchRequest) -> bytes:
        """The response. Raises `InvalidRequest` and `BatchOutOfStep`: nothing is applied."""
        entries = decode_entries(batch.entries)
        cursor = self.cursors.get((source_id, batch.epoch), Cursor())
        if (cursor.batch, cursor.digest) == (batch.batch, batch.digest):
            return cursor.response
        is_withdrawn = (cursor.batch, cursor.digest) == (batch.batch, batch.withdraws)
        if is_withdrawn and cursor.is_stored:
            return cursor.response
        if not is_withdrawn and batch.batch != cursor.batch + 1:
            raise problems.BatchOutOfStep(
                f"batch {batch.batch} came after batch {cursor.batch}", last_batch=cursor.batch
            )
        folded = fold(source_id, self._facts(source_id, entries), entries, batch.sent_at_ms)
        for execution_id, after in folded.after().items():
            if after.writer_status is WriterStatus.WRITER:
                self.executions[execution_id] = after
                if after.status in TERMINAL_CODES:
                    self.leases.pop(execution_id, None)
        for execution_id, change in folded.changes.executions.items():
            named = {name: getattr(change, name) for name in change.__struct_fields__}
            self.columns[execution_id] |= {
                name: value
                for name, value in named.items()
                if value is not None and value is not msgspec.UNSET
            }
        for outcome in folded.outcomes:
            if outcome.kind != "deferred":
                result = outcome.problem.slug if outcome.problem is not None else outcome.kind
                entry = outcome.entry
                self.settled.append(
                    Settled(source_id, batch.epoch, entry.seq, entry.execution_id, result, entry)
                )
        outcomes = [_wire_outcome(outcome) for outcome in folded.outcomes]
        response = msgspec.json.encode(BatchResponse(batch.batch, outcomes))
        is_known = any(source == source_id for _, source in self.bindings)
        cursor = Cursor(batch.batch, batch.digest, response, is_known)
        self.cursors[source_id, batch.epoch] = cursor
        return response

    def _facts(
        self, source_id: str, entries: Sequence[AnyEntry | InvalidEntry]
    ) -> dict[int, Execution]:
        facts: dict[int, Execution] = {}
        for entry in entries:
            execution_id = entry.execution_id
            execution = self.executions.get(execution_id)
            status = self._writer_status(source_id, execution_id)
            if status is WriterStatus.NOT_BOUND or execution is None:
                facts[execution_id] = Execution(execution_id=execution_id, writer_status=status)
            else:
                facts[execution_id] = msgspec.structs.replace(
                    execution,
                    writer_status=status,
                    may_set_status=self.runners.get(execution_id) == source_id,
                )
        return facts

    def _writer_status(self, source_id: str, execution_id: int) -> WriterStatus:
        key = execution_id, source_id
        if key not in self.bindings:
            return WriterStatus.NOT_BOUND
        if self.bindings[key] is not None:
            return WriterStatus.REVOKED
        is_locked = execution_id in self.locked
        return WriterStatus.BLOCKED if is_locked else WriterStatus.WRITER

    # Bindings and leases

    def bind(self, source_id: str, execution_id: int, now: float) -> None:
        """Raises `BoundElsewhere` while the run is open and another source's lease has not lapsed.

        After the end a source is bound for the other fields only, and revokes nobody.
        """
        is_open = self.executions[execution_id].status not in TERMINAL_CODES
        lease = self.leases.get(execution_id)
        is_bound = self.bindings.get((execution_id, source_id), "not bound") is None
        if is_open and not is_bound:
            for other in self.sources_of(execution_id):
                is_live = lease is not None and lease.source_id == other and lease.expires_at > now
                if is_live:
                    raise problems.BoundElsewhere("another sidecar is writing to this execution")
                self.bindings[execution_id, other] = "taken-over"
        self.bindings[execution_id, source_id] = None
        if is_open:
            self.runners[execution_id] = source_id
            self.leases[execution_id] = Lease(source_id, now + LEASE_S)

    def sources_of(self, execution_id: int) -> list[str]:
        """The source that may write to the execution, if any."""
        return [
            source
            for (bound, source), revoked in self.bindings.items()
            if bound == execution_id and revoked is None
        ]

    def renew(self, source_id: str, execution_ids: Sequence[int], now: float) -> RenewedLeases:
        lost = []
        for execution_id in execution_ids:
            reason = self._why_lost(source_id, execution_id)
            if reason is None:
                self.leases[execution_id] = Lease(source_id, now + LEASE_S)
            else:
                lost.append(LostLease(execution_id, reason))
        return RenewedLeases(LEASE_S, lost)

    def _why_lost(self, source_id: str, execution_id: int) -> LostReason | None:
        key = execution_id, source_id
        if key not in self.bindings:
            return LostReason.NOT_BOUND
        if self.bindings[key] is not None:
            taken = self.bindings[key] == "taken-over"
            return LostReason.BOUND_ELSEWHERE if taken else LostReason.REVOKED
        execution = self.executions[execution_id]
        if execution.status in TERMINAL_CODES:
            closed = execution.ended_provisionally
            return LostReason.CLOSED if closed else LostReason.ENDED
        return None

    def lapse(self, execution_id: int, now: float) -> None:
        """As if it had not been renewed for long."""
        lease = self.leases.get(execution_id)
        if lease is not None:
            self.leases[execution_id] = Lease(lease.source_id, now)

    def close_lapsed(self, now: float) -> list[int]:
        """Fails the open runs whose leases have lapsed, provisionally."""
        lapsed = [eid for eid, lease in self.leases.items() if lease.expires_at <= now]
        for execution_id in lapsed:
            self.close(execution_id)
        return lapsed

    def abandon(self, source_id: str, abandoned: AbandonedExecutions) -> ClosedExecutions:
        """Closes the source's open runs among them.

        Nothing is closed as an abandoned create: here every execution was created by nobody, and
        bound later.
        """
        closed: list[int] = []
        if abandoned.reason is not AbandonReason.ABANDONED_CREATE:
            closed = [e for e in self._open(source_id) if e in abandoned.execution_ids]
        for execution_id in closed:
            self.close(execution_id)
        return ClosedExecutions(closed)

    def close(self, execution_id: int) -> None:
        self.executions[execution_id] = msgspec.structs.replace(
            self.executions[execution_id],
            status=Status.FAILED.code,
            ended_by=None,
            ended_provisionally=True,
        )
        self.leases.pop(execution_id, None)

    # HTTP

    def respond(
        self, source_id: str, method: str, target: str, body: bytes, now: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body. Who calls is known: assertions are not checked here."""
        try:
            response = self._route(source_id, method, target.partition("?")[0], body, now)
        except Problem as problem:
            headers = {"Content-Type": "application/problem+json"} | problem.headers
            return problem.status, headers, msgspec.json.encode(problem.document())
        content = response if isinstance(response, bytes) else msgspec.json.encode(response)
        headers = {
            "Content-Type": "application/json",
            "X-User-Id": "1",
            "X-Token-Expires-At": str(FAR_FUTURE_S),
        }
        return 200, headers, content

    def _route(self, source_id: str, method: str, path: str, body: bytes, now: float) -> Any:
        match method, path.split("/")[2:]:
            case "POST", ["batches"]:
                batch = decode_batch(body)
                assert batch.wire == WIRE_VERSION
                if digest_of(batch.entries) != batch.digest:
                    raise invalid_field("digest", "SHA-256 over the entries")
                return self.apply(source_id, batch)
            case "POST", ["lease-renewals"]:
                return self.renew(source_id, self._limited(parse_body(body, _executions)), now)
            case "POST", ["executions", number, "binding"]:
                self.bind(source_id, int(number), now)
                return self._bound(int(number))
            case "GET", ["bindings"]:
                return {"bindings": [{"execution_id": eid} for eid in self._open(source_id)]}
            case "POST", ["bindings", "abandoned"]:
                abandoned = parse_body(body, _abandoned)
                self._limited(abandoned)
                return self.abandon(source_id, abandoned)
        raise AssertionError(f"the sidecar called {method} {path}")

    def _limited(self, asked: ExecutionList | AbandonedExecutions) -> list[int]:
        """A smaller limit than the real one, so that few runs exceed it."""
        if len(asked.execution_ids) > self.executions_per_call:
            raise invalid_field("execution_ids", f"at most {self.executions_per_call}")
        return asked.execution_ids

    def _open(self, source_id: str) -> list[int]:
        return [
            eid
            for eid, execution in self.executions.items()
            if source_id in self.sources_of(eid) and execution.status not in TERMINAL_CODES
        ]

    def _bound(self, execution_id: int) -> dict[str, Any]:
        execution = self.executions[execution_id]
        return {
            "execution_id": execution_id,
            "workflow_id": execution.workflow_id,
            "computing_unit_id": 1,
            "user_id": execution.user_id,
            "status_code": execution.status,
            "warehouse": execution.warehouse,
        }


def _wire_outcome(outcome: EntryOutcome) -> Outcome:
    problem = outcome.problem.document() if outcome.problem is not None else None
    return Outcome(outcome.entry.seq, outcome.kind, problem, outcome.removed)


def describe(settled: Settled) -> str:
    return f"{op_of(settled.entry)} {settled.seq}: {settled.result}"
