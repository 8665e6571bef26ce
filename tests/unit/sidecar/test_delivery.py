"""Delivery: what each answer of central's does to a batch, and to those who wait for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import pytest

from sidecar.delivery.delivery import Delivery
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, RelayedProblem
from sidecar.spool.entry import Batch, Entry, Outcome, Urgency, WriteRecord, WriteState
from sidecar.spool.permits import Binding, Grant
from sidecar.spool.spool import Spool
from tests.unit.sidecar.spooling import EID, OTHER_EID, USER, Spools, size_only, state_of, update

Answer = Callable[[Batch], list[Outcome]]
TOKEN_DIGEST = b"d" * 32


def applied(batch: Batch) -> list[Outcome]:
    return [Outcome(entry.seq, "applied") for entry in batch.entries]


def refused(slug: str) -> Answer:
    return lambda batch: [Outcome(e.seq, "refused", {"type": slug}) for e in batch.entries]


def relayed(slug: str, status: int, headers: dict[str, str] | None = None) -> RelayedProblem:
    return RelayedProblem({"type": slug, "status": status, "detail": slug}, headers or {})


UNREACHABLE = CentralUnavailable("cannot be reached", retry_after_s=1)
PROXY_PAGE = CentralUnavailable("502 from a proxy", retry_after_s=1, from_a_stranger=True)


@dataclass
class ScriptedCentral:
    """Answers batches by a script, then applies what comes. Remembers what it was sent."""

    script: list[Answer | Exception] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()

    async def deliver(self, batch: Batch, sent_at_ms: int) -> list[Outcome]:
        self.batches.append(batch)
        await self.may_answer.wait()
        answer = self.script.pop(0) if self.script else applied
        if isinstance(answer, Exception):
            raise answer
        return answer(batch)

    def numbers(self) -> list[list[int]]:
        return [[entry.seq for entry in batch.entries] for batch in self.batches]


class Told:
    def settled(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None:
        pass


@dataclass
class Bench:
    """A spool, a scripted central and the delivery between them, with no waits of its own."""

    spool: Spool
    central: ScriptedCentral
    delivery: Delivery
    metrics: Metrics
    waits_s: list[float]
    _running: asyncio.Task[None] | None = None

    async def deliver_all(self) -> None:
        """Runs until nothing is left."""
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


@pytest.fixture
async def bench(spools: Spools) -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        spool = await spools.open()
        central, metrics, waits_s = ScriptedCentral(), Metrics(), list[float]()

        def no_wait(low: float, high: float) -> float:
            waits_s.append(high)
            return 0.0

        delivery = Delivery(
            spool,
            central,
            metrics,
            Told(),
            wall_clock=lambda: spools.now_s,
            monotonic=lambda: spools.now_s,
            uniform=no_wait,
        )
        bench = Bench(spool, central, delivery, metrics, waits_s)
        stack.push_async_callback(bench.stop)
        yield bench


@pytest.mark.parametrize(
    "trouble",
    [
        UNREACHABLE,
        PROXY_PAGE,
        CentralUnavailable("busy", retry_after_s=0.01, asked_to_wait=True),
        relayed("assertion-invalid", 401),
        relayed("forbidden", 403),
        relayed("invalid-request", 400),
        relayed("body-too-large", 413),
        relayed("rate-limited", 429),
        relayed("internal-error", 500),
    ],
    ids=lambda trouble: f"{trouble.status} {trouble.detail}",
)
async def test_a_batch_that_was_not_answered_is_sent_again_unchanged(
    bench: Bench, trouble: Exception
) -> None:
    seq = await bench.spool.append(update(name="n"))
    bench.central.script = [trouble] * 3

    await bench.deliver_all()

    first, *again = bench.central.batches
    assert again == [first] * 3
    assert await state_of(bench.spool, seq) is WriteState.COMMITTED


async def test_waits_double_up_to_a_limit_and_begin_anew_after_an_answer(bench: Bench) -> None:
    await bench.spool.append(update(name="n"))
    bench.central.script = [UNREACHABLE] * 9
    await bench.deliver_all()

    assert bench.waits_s == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]

    bench.waits_s.clear()
    await bench.spool.append(update(name="n"))
    bench.central.script = [UNREACHABLE]
    await bench.deliver_all()
    assert bench.waits_s == [0.1]


@pytest.mark.parametrize("trouble", [PROXY_PAGE, relayed("forbidden", 403)])
async def test_a_refused_call_parks_loudly_until_central_answers(
    bench: Bench, trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[float, str | None]] = []

    def look(batch: Batch) -> list[Outcome]:
        parked = bench.count("sidecar_delivery_parked")
        seen.append((parked, bench.delivery.parked_because))
        return applied(batch)

    await bench.spool.append(update(name="n"))
    bench.central.script = [trouble, look]

    await bench.deliver_all()

    ((parked, because),) = seen
    assert parked == 1
    assert because is not None
    assert "delivery parked" in caplog.text
    assert bench.count("sidecar_delivery_parked") == 0
    assert bench.delivery.parked_because is None


async def test_what_central_asks_for_is_waited_but_not_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.delivery.delivery.ASKED_WAIT_LIMIT_S", 0.05)
    await bench.spool.append(update(name="n"))
    bench.central.script = [
        CentralUnavailable("busy", retry_after_s=86_400, asked_to_wait=True),
        relayed("rate-limited", 429, {"Retry-After": "86400"}),
    ]
    loop = asyncio.get_running_loop()
    begun_at = loop.time()

    await bench.deliver_all()

    assert loop.time() - begun_at >= 0.1


async def test_out_of_step_begins_an_epoch_and_cuts_anew(bench: Bench) -> None:
    seqs = [await bench.spool.append(update(name=name)) for name in "ab"]
    bench.central.script = [relayed("batch-out-of-step", 409)] * 2

    await bench.deliver_all()

    epochs = [batch.epoch for batch in bench.central.batches]
    assert len(set(epochs)) == 3
    assert [batch.number for batch in bench.central.batches] == [1, 1, 1]
    assert bench.central.numbers() == [seqs] * 3
    assert bench.spool.epochs_begun == 2
    assert len(bench.waits_s) == 2  # a central that is out of step with everything is no busy loop


async def test_a_run_that_goes_on_keeps_its_order_around_a_deferred_write(
    bench: Bench, spools: Spools
) -> None:
    first, other, second = [
        await bench.spool.append(update(execution_id=eid, name="n"))
        for eid in (EID, OTHER_EID, EID)
    ]

    def lock_one(batch: Batch) -> list[Outcome]:
        return [
            Outcome(e.seq, "deferred" if e.execution_id == EID else "applied")
            for e in batch.entries
        ]

    bench.central.script = [lock_one]
    bench.start()
    await until(lambda: bench.spool.queues.entry_count == 2)
    spools.now_s += 10  # the hold is over

    await bench.deliver_all()

    assert bench.central.numbers() == [[first, second, other], [first, second]]


@pytest.mark.parametrize("slug", ["late", "uri-conflict"])
async def test_a_refusal_ends_its_own_write_only_and_is_told(
    bench: Bench, slug: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    good, bad = [await bench.spool.append(update(name=name)) for name in "ab"]
    bench.central.script = [
        lambda batch: [Outcome(good, "applied"), Outcome(bad, "refused", {"type": slug})]
    ]
    waiting = [asyncio.create_task(bench.delivery.wait_settled(s, 30)) for s in (good, bad)]
    await asyncio.sleep(0)

    await bench.deliver_all()

    ended = [await task for task in waiting]
    assert [record.state for record in ended if record] == [
        WriteState.COMMITTED,
        WriteState.REFUSED,
    ]
    assert bench.count("sidecar_refused_writes_total", type=slug) == 1
    (told,) = [record for record in caplog.records if record.message == "write refused"]
    assert told.levelname == ("INFO" if slug == "late" else "WARNING")


# What an answer means for the right to write


async def permit(spool: Spool, execution_id: int = EID) -> None:
    binding = Binding(execution_id, 1, 2, USER, None, created_here=True)
    await spool.record_binding(binding, Grant(TOKEN_DIGEST, execution_id, USER, 2_000))


def is_granted(spool: Spool) -> bool:
    return spool.permits.grant(TOKEN_DIGEST, EID) is not None


@pytest.mark.parametrize("slug", ["binding-revoked", "not-bound", "user-demoted"])
async def test_a_right_that_central_took_back_is_forgotten_for_good(
    bench: Bench, spools: Spools, slug: str
) -> None:
    await permit(bench.spool)
    await bench.spool.append(update(name="n"))
    bench.central.script = [refused(slug)]

    await bench.deliver_all()

    assert not is_granted(bench.spool)
    reopened = await spools.open()
    assert not is_granted(reopened)
    assert reopened.permits.binding(EID) is None


@pytest.mark.parametrize(
    ("urgency", "answer", "is_over"),
    [
        (Urgency.TERMINAL, applied, True),
        (Urgency.TERMINAL, refused("status-conflict"), True),
        (Urgency.URI, refused("execution-not-found"), True),
        (Urgency.STATUS, applied, False),
        # Closed as an orphan, and perhaps still running: its own end must be admitted.
        (Urgency.STATUS, refused("late"), False),
        (Urgency.TERMINAL, refused("uri-mismatch"), False),
    ],
)
async def test_grants_outlive_the_end_of_their_run_by_ten_minutes(
    bench: Bench, spools: Spools, urgency: Urgency, answer: Answer, is_over: bool
) -> None:
    await permit(bench.spool)
    await bench.spool.append(update(urgency=urgency, status="COMPLETED"))
    bench.central.script = [answer]
    await bench.deliver_all()
    spool = await spools.open()

    spools.now_s += 599
    await spool.purge_permits()
    assert is_granted(spool)
    spools.now_s += 2
    await spool.purge_permits()
    assert is_granted(spool) is not is_over


# Those who wait


async def test_a_flush_waits_for_what_is_durable_now_and_not_for_what_comes(bench: Bench) -> None:
    first = await bench.spool.append(size_only(1))  # would wait for a replacement
    bench.central.may_answer.clear()
    bench.start()
    flush = asyncio.create_task(bench.delivery.flush(30))
    await until(lambda: bool(bench.central.batches))
    later = await bench.spool.append(update(execution_id=OTHER_EID, name="n"))

    def stall(batch: Batch) -> list[Outcome]:
        bench.central.may_answer.clear()
        return applied(batch)

    bench.central.script = [stall]
    bench.central.may_answer.set()

    assert await flush == 0
    assert await state_of(bench.spool, first) is WriteState.COMMITTED
    assert await state_of(bench.spool, later) is WriteState.DURABLE


async def test_a_flush_that_takes_too_long_says_how_many_are_left(bench: Bench) -> None:
    for name in "ab":
        await bench.spool.append(update(name=name))
    bench.central.may_answer.clear()
    bench.start()

    assert await bench.delivery.flush(0.05) == 2


async def test_a_merged_write_is_flushed_when_its_replacement_is(bench: Bench) -> None:
    await bench.spool.append(update(name="before"))
    await bench.spool.append(size_only(1))
    await bench.spool.append(size_only(2))
    bench.start()

    assert await bench.delivery.flush(30) == 0

    assert bench.spool.queues.entry_count == 0


async def test_a_wait_ends_with_the_write_or_with_its_time(bench: Bench) -> None:
    seq = await bench.spool.append(update(name="n"))
    assert await bench.delivery.wait_settled(seq, 0.01) is None

    await bench.deliver_all()

    record = await bench.delivery.wait_settled(seq, 0.01)
    assert record is not None
    assert record.state is WriteState.COMMITTED


async def test_a_drain_that_meets_a_backoff_makes_one_try_at_once(bench: Bench) -> None:
    await bench.spool.append(update(name="n"))
    bench.central.script = [CentralUnavailable("busy", retry_after_s=60, asked_to_wait=True)]
    bench.start()
    await until(lambda: bool(bench.waits_s))

    bench.delivery.begin_drain()
    await until(lambda: bench.spool.queues.entry_count == 0)

    assert len(bench.central.batches) == 2


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 (of what is looked at nothing tells)
            await asyncio.sleep(0.001)
