"""A computing unit in one run of a workflow: it follows a plan and calls a metadata backend.

The engine is not simulated, only its unit's calls, in Texera's order: find the previous run and
delete its URIs, create, store the URI of the statistics, READY, RUNNING; then a port result per
stored port as regions start, a console at an operator's first print, and at every poll the look-ups
and sizes of what grew; at last the terminal status, and the wait until all writes are delivered.
"""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from dev.metadata_backend import (
    CallFailed,
    MetadataBackend,
    NewExecution,
    RefusedCall,
    Unreachable,
)
from dev.progress import NullReporter, ProgressReporter
from dev.ready import Ready
from dev.run_plan import FirstPrint, Poll, PortGrowth, RunPlan, StartRegion, StoreStatus, seconds_at
from dev.vfs_uri import console_uri, result_uri, runtime_stats_uri

ENVIRONMENT_VERSION = json.dumps({"engine_version": "replay-1"})

T = TypeVar("T")


@dataclass
class RunReport:
    """A run's outcome and its calls."""

    execution_id: int | None = None
    status: str | None = None
    waits_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds that the unit waited for each call, by kind of call."""
    settle_s: float = 0.0
    errors: list[RefusedCall] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Sentences about optional work that the unit was not permitted to do."""

    @property
    def calls(self) -> dict[str, int]:
        """The number of calls of each kind."""
        return {call: len(waits) for call, waits in self.waits_s.items()}

    @property
    def call_count(self) -> int:
        """The number of all calls of the run."""
        return sum(self.calls.values())

    @property
    def waited_s(self) -> float:
        """Seconds that the unit waited for metadata, all calls together."""
        return sum(sum(waits) for waits in self.waits_s.values())


class ComputingUnit:
    """Runs one workflow once. `report` is filled during the run, also if it is cancelled."""

    def __init__(
        self,
        plan: RunPlan,
        backend: MetadataBackend,
        reporter: ProgressReporter,
        *,
        workflow_id: int,
        computing_unit_id: int,
        poll_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._plan = plan
        self._backend = backend
        self._reporter = reporter
        self._workflow_id = workflow_id
        self._computing_unit_id = computing_unit_id
        self._poll_s = poll_s
        self._clock = clock
        self._sleep = sleep
        self.report = RunReport()

    async def run(self) -> RunReport:
        """The whole run. Raises `CallFailed` if no execution could be created.

        Raises `Unreachable` when nothing answers any more. Other failures are in the report.
        """
        execution_id = await self._start()
        # A poll that had to wait for a response delays what follows it, as in a real unit.
        started_at = self._clock()
        for number, step in enumerate(self._plan.steps, start=1):
            due_at = started_at + seconds_at(step.at, self._poll_s)
            if (wait_s := due_at - self._clock()) > 0:
                await self._sleep(wait_s)
            match step.action:
                case StoreStatus(status):
                    await self._status(execution_id, status)
                case StartRegion() as region:
                    await self._start_region(execution_id, region)
                case FirstPrint() as first_print:
                    await self._open_console(execution_id, first_print)
                case Poll() as poll:
                    await self._poll(execution_id, poll)
            self._reporter.advance(number, len(self._plan.steps))
        await self._wait_delivered()
        return self.report

    async def kill(self) -> None:
        """Store KILLED, if there is a run that has not ended."""
        execution_id = self.report.execution_id
        if execution_id is not None and self.report.status != self._plan.end_status:
            await self._status(execution_id, "KILLED")

    async def _start(self) -> int:
        backend, workflow_id = self._backend, self._workflow_id
        before = await self._call(
            "latest_execution", backend.latest_execution(workflow_id, self._computing_unit_id)
        )
        if before is not None:
            await self._clear(before)
        new = NewExecution(workflow_id, self._computing_unit_id, ENVIRONMENT_VERSION)
        execution_id = await self._timed("create_execution", backend.create_execution(new))
        self.report.execution_id = execution_id
        self._reporter.event(f"execution {execution_id} created")
        uri = runtime_stats_uri(workflow_id, execution_id)
        stored = backend.store_runtime_stats_uri(workflow_id, execution_id, uri)
        await self._call("store_runtime_stats_uri", stored)
        await self._status(execution_id, "READY")
        return execution_id

    async def _clear(self, execution_id: int) -> None:
        """Delete an earlier run's URIs. Another user's are skipped: that is no error."""
        try:
            await self._timed("clear_uris", self._backend.clear_uris(execution_id))
            self._reporter.event(f"results of execution {execution_id} cleared")
        except Unreachable:
            raise
        except CallFailed as failed:
            if failed.refused.http_status not in {403, 404}:
                self._record_error(failed.refused)
                return
            sentence = f"results of execution {execution_id} skipped: {failed.refused.detail}"
            self.report.skipped.append(sentence)
            self._reporter.event(sentence)

    async def _status(self, execution_id: int, status: str) -> None:
        stored = self._backend.store_status(execution_id, status)
        if await self._succeeds("store_status", stored):
            self.report.status = status
            self._reporter.event(status)

    async def _start_region(self, execution_id: int, region: StartRegion) -> None:
        for stored in region.storage_ports:
            port = stored.global_port_id
            uri = result_uri(self._workflow_id, execution_id, port)
            put = self._backend.store_port_result(execution_id, port, uri)
            await self._call("store_port_result", put)
        results = len(region.storage_ports)
        self._reporter.event(
            f"region {region.number + 1} started, {_count(results, 'result')} stored"
        )

    async def _open_console(self, execution_id: int, first_print: FirstPrint) -> None:
        operator = first_print.operator
        uri = console_uri(self._workflow_id, execution_id, operator.id)
        put = self._backend.store_console(execution_id, operator.id, uri)
        await self._call("store_console", put)
        self._reporter.event(f"{operator.display_name} prints: {first_print.text}")

    async def _poll(self, execution_id: int, poll: Poll) -> None:
        await self._call("result_uris", self._backend.result_uris(execution_id))
        for growth in poll.changes:
            await self._store_growth(execution_id, growth, poll.runtime_stats_bytes)
        tuples = sum(growth.tuple_count for growth in poll.changes)
        grown = _count(len(poll.changes), "result")
        self._reporter.event(f"poll {poll.number}: {grown} grew, to {tuples} tuples")

    async def _store_growth(
        self, execution_id: int, growth: PortGrowth, statistics_bytes: int
    ) -> None:
        """Texera's unit reads the URI twice: to count the tuples, then to show them."""
        backend, operator = self._backend, growth.stored.operator
        for _ in range(2):
            reading = backend.result_uri(execution_id, operator.id, growth.stored.port)
            if await self._call("result_uri", reading) is None:
                self._record_error(
                    RefusedCall("result_uri", "not-found", f"{operator.id} has no result yet")
                )
        if growth.result_bytes is None:
            return
        port = growth.stored.global_port_id
        size = backend.store_result_bytes(execution_id, port, growth.result_bytes)
        await self._call("store_result_bytes", size)
        size = backend.store_runtime_stats_bytes(execution_id, statistics_bytes)
        await self._call("store_runtime_stats_bytes", size)
        size = backend.store_console_bytes(execution_id, operator.id, growth.console_bytes)
        await self._call("store_console_bytes", size)

    async def _wait_delivered(self) -> None:
        self._reporter.event("waiting until every write is committed")
        started_at = self._clock()
        try:
            for refused in await self._backend.wait_delivered():
                self._record_error(refused)
        except Unreachable:
            raise
        except CallFailed as failed:
            self._record_error(failed.refused)
        self.report.settle_s = self._clock() - started_at

    async def _succeeds(self, call: str, awaitable: Awaitable[object]) -> bool:
        try:
            await self._timed(call, awaitable)
        except Unreachable:
            raise
        except CallFailed as failed:
            self._record_error(failed.refused)
            return False
        return True

    async def _call(self, call: str, awaitable: Awaitable[T]) -> T | None:
        """The result, or None after a failure, which is reported; the run continues."""
        try:
            return await self._timed(call, awaitable)
        except Unreachable:
            raise
        except CallFailed as failed:
            self._record_error(failed.refused)
            return None

    async def _timed(self, call: str, awaitable: Awaitable[T]) -> T:
        started_at = self._clock()
        try:
            return await awaitable
        finally:
            self.report.waits_s[call].append(self._clock() - started_at)

    def _record_error(self, refused: RefusedCall) -> None:
        self.report.errors.append(refused)
        self._reporter.event(f"{refused.call} failed: {refused.slug}: {refused.detail}")


async def run_workflow(
    ready: Ready,
    plan: RunPlan,
    backend: MetadataBackend,
    poll_s: float,
    reporter: ProgressReporter | None = None,
) -> RunReport:
    """One run of the sample workflow on the owner's unit of a running system."""
    unit = ComputingUnit(
        plan,
        backend,
        NullReporter() if reporter is None else reporter,
        workflow_id=ready["workflow_id"],
        computing_unit_id=ready["computing_unit_id"],
        poll_s=poll_s,
    )
    return await unit.run()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
