"""Reads over a real spool and a fake central whose rows other writers may change."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from kit.texera.statuses import Status
from sidecar.cache.access import AccessCache, token_digest
from sidecar.cache.pending import apply_to_execution
from sidecar.cache.uri_registry import UriRegistry
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, UpstreamProblem
from sidecar.reads import Reads
from sidecar.spool.bindings import Binding, Grant
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.entry import NewEntry, Outcome, Priority
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import Central
from sidecar.upstream.client import CallContext, CentralResponse
from sidecar.wire import v1

MIB = 1024 * 1024
WORKFLOW, UNIT = 3, 4
TOKEN = "a"
EXECUTION_CACHE_TTL_S, ACCESS_TTL_S, STALE_S = 2.0, 60.0, 600.0
TERM_S = 1_000_000

_target = re.compile(r"/v1/(executions|workflows)/(\d+)(/uris|/executions/latest)?(?:\?.*)?")


@dataclass
class Clock:
    """The monotonic and the wall clock, set by hand."""

    now_s: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FakeCentral(Central):
    """Central's state. `readers` says which tokens may read which workflow.

    A call returns once `may_respond` is set, with the state of that time; with
    `answers_early`, with the state of the time it was made.
    """

    clock: Clock
    rows: dict[int, v1.Execution] = field(default_factory=dict)
    registries: dict[int, UriRegistry] = field(default_factory=dict)
    readers: set[tuple[str, int]] = field(default_factory=set)
    expires_at: dict[str, int] = field(default_factory=dict)
    users: dict[str, int] = field(default_factory=dict)
    """By token; others are of user 1."""
    calls: list[str] = field(default_factory=list)
    unchanged_count: int = 0
    is_down: bool = False
    is_known_down: bool = False
    fails_calls: bool = False
    """While its probes succeed."""
    is_rate_limiting: bool = False
    answers_early: bool = False
    may_respond: asyncio.Event = field(default_factory=asyncio.Event)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_respond.set()

    @property
    def is_reachable(self) -> bool:
        return not (self.is_down or self.is_known_down)

    async def read(
        self, name: str, target: str, context: CallContext, etag: str | None = None
    ) -> CentralResponse:
        self.calls.append(target)
        self.called.set()
        asked_at = self.clock.now_s
        early = None
        if self.answers_early and not self.is_down:
            early = self._reply(target, context.token or "", etag, asked_at)
        await self.may_respond.wait()
        if self.is_down or self.fails_calls:
            raise CentralUnavailable("central is down", retry_after_s=1)
        if self.is_rate_limiting:
            raise refusal("rate-limited", 429)
        return early or self._reply(target, context.token or "", etag, asked_at)

    async def bind(
        self, execution_id: int, context: CallContext, boot_id: str | None = None
    ) -> CentralResponse:
        self.calls.append(f"bind {execution_id} for {context.request_id}")
        raise refusal("execution-not-found", 404)

    def _reply(self, target: str, token: str, etag: str | None, asked_at: float) -> CentralResponse:
        expires_at = self.expires_at.get(token, int(self.clock.now_s) + TERM_S)
        if expires_at <= self.clock.now_s:
            raise refusal("token-expired", 401)
        body = msgspec.json.encode(self._body(target, token))
        name = hashlib.sha256(body).hexdigest()
        user_id = self.users.get(token, 1)
        if etag == name:
            self.unchanged_count += 1
            return CentralResponse(304, b"", user_id, expires_at, name, asked_at=asked_at)
        return CentralResponse(200, body, user_id, expires_at, name, asked_at=asked_at)

    def _body(self, target: str, token: str) -> Any:
        match = _target.fullmatch(target)
        assert match is not None, target
        kind, number, part = match[1], int(match[2]), match[3]
        row = self.rows.get(number) if kind == "executions" else self.latest(number)
        workflow = number if kind == "workflows" else row.workflow_id if row else 0
        if (token, workflow) not in self.readers:
            raise refusal("execution-not-found", 404)
        if row is None:
            raise refusal("no-execution", 404)
        return self.registries[number].to_json() if part == "/uris" else row

    def latest(self, workflow_id: int) -> v1.Execution | None:
        rows = [row for row in self.rows.values() if row.workflow_id == workflow_id]
        return max(rows, key=lambda row: row.execution_id, default=None)

    def add(self, execution_id: int, workflow_id: int = WORKFLOW) -> None:
        """Another writer created an execution."""
        self.rows[execution_id] = row(execution_id, workflow_id)
        self.registries[execution_id] = UriRegistry()

    def apply(self, execution_id: int, document: bytes) -> None:
        """A write was delivered."""
        write = msgspec.json.decode(document)
        self.registries[execution_id].apply(write)
        apply_to_execution(self.rows[execution_id], write)


def row(execution_id: int, workflow_id: int = WORKFLOW) -> v1.Execution:
    texts: dict[str, Any] = dict.fromkeys(
        ("result", "log_location", "runtime_stats_uri", "updated_at")
    )
    return v1.Execution(
        execution_id=execution_id,
        workflow_id=workflow_id,
        version_id=1,
        computing_unit_id=UNIT,
        user_id=1,
        status=Status.READY,
        status_code=0,
        name="a run",
        bookmarked=False,
        environment_version="1",
        runtime_stats_bytes=0,
        started_at="2026-01-01T00:00:00Z",
        **texts,
    )


def refusal(slug: str, status: int) -> UpstreamProblem:
    return UpstreamProblem({"type": slug, "status": status, "detail": slug}, {})


@dataclass
class World:
    """A sidecar's reads between a real spool and a fake central."""

    spool: Spool
    central: FakeCentral
    access: AccessCache
    metrics: Metrics
    reads: Reads
    clock: Clock
    pauses_s: "asyncio.Queue[float]"
    """The pauses of long polls' poll tasks."""

    async def bind(
        self, execution_id: int, token: str = TOKEN, *, created_here: bool = True
    ) -> None:
        """Binds as a create does, or as a first write to an execution created elsewhere."""
        binding = Binding(
            execution_id,
            self.central.rows[execution_id].workflow_id,
            UNIT,
            1,
            None,
            created_here=created_here,
        )
        expires_at = int(self.clock.now_s) + TERM_S
        grant = Grant(token_digest(token), execution_id, 1, expires_at)
        await self.spool.bindings.record(binding, grant)
        if created_here:
            self.reads.on_create(binding, grant, asked_at=self.clock.now_s)

    async def write(self, execution_id: int, op: str, **members: Any) -> int:
        status = members.get("status")
        ends = status is not None and Status(status).is_terminal
        priority = Priority.TERMINAL if ends else Priority.NORMAL
        return await self.spool.append(NewEntry(execution_id, 1, op, members, priority))

    async def put_result(self, execution_id: int, port: str, uri: str) -> int:
        return await self.write(
            execution_id, "put_port_result", global_port_id=port, result_uri=uri
        )

    async def deliver(self, *, refused: bool = False) -> None:
        """Delivers all pending writes, as `delivery` does."""
        while (batch := await self.spool.cut(flush=True)) is not None:
            outcomes = []
            for entry in batch.entries:
                if refused:
                    outcomes.append(Outcome(entry.seq, "refused", {"type": "uri-conflict"}))
                else:
                    self.central.apply(entry.execution_id, entry.payload)
                    outcomes.append(Outcome(entry.seq, "applied"))
            await self.spool.settle(batch, outcomes, partial(self.reads.on_settled, batch.entries))

    def count(self, resource: str, result: str) -> float:
        return sum(
            sample.value
            for metric in self.metrics.cache_requests.collect()
            for sample in metric.samples
            if sample.labels["resource"] == resource and sample.labels["result"] == result
        )


def caller(token: str = TOKEN) -> CallContext:
    return CallContext(token)


@asynccontextmanager
async def open_world(
    folder: Path,
    *,
    stale_if_slow_s: float = 30.0,
    max_bytes: int = MIB,
    execution_cache_ttl_s: float = EXECUTION_CACHE_TTL_S,
) -> AsyncIterator[World]:
    """`stale_if_slow_s` is real time; a poll task's pauses are instant."""
    clock = Clock()
    pauses_s: asyncio.Queue[float] = asyncio.Queue()

    async def sleep(seconds: float) -> None:
        pauses_s.put_nowait(seconds)
        await asyncio.sleep(0)

    spool = Spool(folder, SpoolLimits(64 * MIB), wall_clock=clock, monotonic=clock)
    await spool.open()
    try:
        central = FakeCentral(clock)
        access = AccessCache(ttl_s=ACCESS_TTL_S, stale_s=STALE_S, wall_clock=clock, monotonic=clock)
        metrics = Metrics()
        reads = Reads(
            spool,
            central,
            access,
            metrics,
            max_bytes=max_bytes,
            execution_cache_ttl_s=execution_cache_ttl_s,
            monotonic=clock,
            sleep=sleep,
            stale_if_slow_s=stale_if_slow_s,
        )
        yield World(spool, central, access, metrics, reads, clock, pauses_s)
    finally:
        await spool.close()
