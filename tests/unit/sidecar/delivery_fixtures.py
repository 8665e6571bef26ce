"""Delivery with a real spool, a scripted central, and no waits."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sidecar.delivery.loop import Delivery
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, UpstreamProblem
from sidecar.spool.entry import Batch, Entry, Outcome, WriteRecord
from sidecar.spool.spool import Spool
from tests.unit.sidecar.spool_fixtures import Spools

Response = Callable[[Batch], list[Outcome]]


def applied(batch: Batch) -> list[Outcome]:
    """All is applied. A withdrawn batch had not arrived before."""
    if batch.is_withdrawn:
        return []
    return [Outcome(entry.seq, "applied") for entry in batch.entries]


def refused(slug: str) -> Response:
    return lambda batch: [Outcome(e.seq, "refused", {"type": slug}) for e in batch.entries]


def relayed(
    slug: str, status: int, headers: dict[str, str] | None = None, **members: object
) -> UpstreamProblem:
    document = {"type": slug, "status": status, "detail": slug} | members
    return UpstreamProblem(document, headers or {})


UNREACHABLE = CentralUnavailable("cannot be reached", retry_after_s=1)
PROXY_413 = CentralUnavailable(
    "413 from a proxy", retry_after_s=1, from_unknown_server=True, response_status=413
)
PROXY_PAGE = CentralUnavailable("502 from a proxy", retry_after_s=1, from_unknown_server=True)


@dataclass
class ScriptedCentral:
    """Runs a script of outcomes and failures, then applies each batch. Records the batches."""

    script: list[Response | Exception] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    may_respond: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_respond.set()

    async def deliver(self, batch: Batch, sent_at_ms: int) -> list[Outcome]:
        self.batches.append(batch)
        await self.may_respond.wait()
        response = self.script.pop(0) if self.script else applied
        if isinstance(response, Exception):
            raise response
        return response(batch)

    def numbers(self) -> list[list[int]]:
        return [[entry.seq for entry in batch.entries] for batch in self.batches]


@dataclass
class RecordingListener:
    settled: set[int] = field(default_factory=set)
    invalidation_count: int = 0

    def on_settled(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None:
        self.settled |= {record.seq for record in records}

    def invalidate_all(self) -> None:
        self.invalidation_count += 1


@dataclass
class DeliveryHarness:
    """A spool, a scripted central, and the delivery between them."""

    spool: Spool
    central: ScriptedCentral
    delivery: Delivery
    metrics: Metrics
    waits_s: list[float]
    listener: RecordingListener
    _running: asyncio.Task[None] | None = None

    async def deliver_all(self) -> None:
        """Runs until the spool is empty."""
        self.delivery.begin_drain()
        self.start()
        async with asyncio.timeout(30):
            await self.running

    def start(self) -> None:
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self.delivery.run())

    @property
    def running(self) -> asyncio.Task[None]:
        assert self._running is not None
        return self._running

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running})

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def harness_on(spools: Spools, spool: Spool) -> DeliveryHarness:
    """Delivery of an open spool; backoffs are recorded instead of waited for."""
    central, metrics, listener = ScriptedCentral(), Metrics(), RecordingListener()
    waits_s: list[float] = []

    def no_wait(low: float, high: float) -> float:
        waits_s.append(high)
        return 0.0

    delivery = Delivery(
        spool, central, metrics, listener, monotonic=lambda: spools.now_s, uniform=no_wait
    )
    return DeliveryHarness(spool, central, delivery, metrics, waits_s, listener)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (no event exists for an arbitrary condition)
            await asyncio.sleep(0.001)
