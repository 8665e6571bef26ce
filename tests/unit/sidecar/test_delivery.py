"""The effect of each of central's responses on the batch in flight."""

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from kit.http.service import Supervisor
from sidecar.problems import CentralUnavailable, SpoolUnavailable
from sidecar.spool import batches
from sidecar.spool.entry import Batch, Outcome, WriteState
from tests.unit.sidecar.delivery_fixtures import (
    PROXY_413,
    PROXY_PAGE,
    UNREACHABLE,
    DeliveryHarness,
    applied,
    relayed,
    until,
)
from tests.unit.sidecar.spool_fixtures import EID, OTHER_EID, Spools, state_of, update


@pytest.mark.parametrize(
    "fault",
    [
        UNREACHABLE,
        PROXY_PAGE,
        CentralUnavailable("busy", retry_after_s=0.01, has_retry_after=True),
        relayed("assertion-invalid", 401),
        relayed("certificate-mismatch", 403),
        relayed("forbidden", 403),
        relayed("invalid-request", 400),
        relayed("body-too-large", 413),
        relayed("rate-limited", 429),
        relayed("internal-error", 500),
    ],
    ids=lambda fault: f"{fault.status} {fault.detail}",
)
async def test_a_failed_batch_is_sent_again_unchanged(
    harness: DeliveryHarness, fault: Exception
) -> None:
    seq = await harness.spool.append(update(name="n"))
    harness.central.script = [fault] * 3

    await harness.deliver_all()

    first, *again = harness.central.batches
    assert again == [first] * 3
    assert await state_of(harness.spool, seq) is WriteState.COMMITTED


async def test_the_backoff_doubles_up_to_its_limit_and_resets_on_success(
    harness: DeliveryHarness,
) -> None:
    await harness.spool.append(update(name="n"))
    harness.central.script = [UNREACHABLE] * 9
    await harness.deliver_all()

    assert harness.waits_s == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]

    harness.waits_s.clear()
    await harness.spool.append(update(name="n"))
    harness.central.script = [UNREACHABLE]
    await harness.deliver_all()
    assert harness.waits_s == [0.1]


async def test_each_cause_of_a_wait_has_a_backoff_and_a_log_line_of_its_own(
    harness: DeliveryHarness,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO", "sidecar.delivery")
    settle, failures = harness.spool.settle, [SpoolUnavailable("gone", retry_after_s=1)]

    async def fail_once(*arguments: Any) -> Any:
        if failures:
            raise failures.pop()
        return await settle(*arguments)

    await harness.spool.append(update(name="n"))
    monkeypatch.setattr(harness.spool, "settle", fail_once)
    harness.central.script = [relayed("rate-limited", 429), UNREACHABLE, UNREACHABLE, applied]

    await harness.deliver_all()

    assert harness.waits_s == [0.1, 0.1, 0.2, 0.1]
    assert [
        (line.message, getattr(line, "fields", {}).get("failures")) for line in caplog.records
    ] == [
        ("delivery rate-limited", None),
        ("central unavailable", None),
        ("delivery resumed", {"rate_limit": 1, "outage": 2}),
        ("spool unavailable", None),
        ("delivery resumed", {"spool": 1}),
    ]


@pytest.mark.parametrize("fault", [PROXY_PAGE, relayed("forbidden", 403)])
async def test_a_refused_call_parks_delivery_until_central_accepts(
    harness: DeliveryHarness, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[float, str | None]] = []

    def record_parked(batch: Batch) -> list[Outcome]:
        parked = harness.count("sidecar_delivery_parked")
        seen.append((parked, harness.delivery.parked_because))
        return applied(batch)

    await harness.spool.append(update(name="n"))
    harness.central.script = [fault, record_parked]

    await harness.deliver_all()

    ((parked, because),) = seen
    assert parked == 1
    assert because is not None
    assert "delivery parked" in caplog.text
    assert harness.count("sidecar_delivery_parked") == 0
    assert harness.delivery.parked_because is None


async def test_retry_after_is_obeyed_up_to_a_maximum(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.delivery.loop.MAX_RETRY_AFTER_S", 0.05)
    await harness.spool.append(update(name="n"))
    harness.central.script = [
        CentralUnavailable("busy", retry_after_s=86_400, has_retry_after=True),
        relayed("rate-limited", 429, {"Retry-After": "86400"}),
    ]
    loop = asyncio.get_running_loop()
    begun_at = loop.time()

    await harness.deliver_all()

    assert loop.time() - begun_at >= 0.1


async def test_a_batch_out_of_step_begins_an_epoch_and_cuts_anew(harness: DeliveryHarness) -> None:
    seqs = [await harness.spool.append(update(name=name)) for name in "ab"]
    harness.central.script = [relayed("batch-out-of-step", 409)] * 2

    await harness.deliver_all()

    epochs = [batch.epoch for batch in harness.central.batches]
    assert len(set(epochs)) == 3
    assert [batch.number for batch in harness.central.batches] == [1, 1, 1]
    assert harness.central.numbers() == [seqs] * 3
    assert harness.spool.epochs_started == 2
    assert (
        len(harness.waits_s) == 2
    )  # a central that is out of step with everything is no busy loop


@pytest.mark.parametrize(
    ("last_batch", "forgotten"), [(0, 2), (1, 1), (2, 0), (3, 0), (-1, 0), ("1", 0), (None, 0)]
)
async def test_answered_batches_that_centrals_cursor_lacks_are_named_and_counted(
    harness: DeliveryHarness,
    last_batch: object,
    forgotten: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in "ab":
        await harness.spool.append(update(name=name))
        await harness.deliver_all()
    seq = await harness.spool.append(update(name="c"))
    harness.central.script = [relayed("batch-out-of-step", 409, last_batch=last_batch)]

    await harness.deliver_all()

    assert harness.central.numbers()[-2:] == [[seq], [seq]]
    assert harness.count("sidecar_forgotten_batches_total") == forgotten
    named = [
        (line.levelname, line.fields)  # type: ignore[attr-defined]
        for line in caplog.records
        if line.message.startswith("central no longer has batches that it had answered")
    ]
    epoch = harness.central.batches[0].epoch
    expected = {"epoch": epoch, "first_batch": 3 - forgotten, "last_batch": 2}
    assert named == ([("ERROR", expected)] if forgotten else [])


async def test_a_deferred_write_keeps_the_order_of_its_execution(
    harness: DeliveryHarness, spools: Spools
) -> None:
    first, other, second = [
        await harness.spool.append(update(execution_id=eid, name="n"))
        for eid in (EID, OTHER_EID, EID)
    ]

    def lock_one(batch: Batch) -> list[Outcome]:
        return [
            Outcome(e.seq, "deferred" if e.execution_id == EID else "applied")
            for e in batch.entries
        ]

    harness.central.script = [lock_one]
    harness.start()
    await until(lambda: harness.spool.queues.entry_count == 2)
    spools.now_s += 10  # past the delay of deferred writes

    await harness.deliver_all()

    assert harness.central.numbers() == [[first, second, other], [first, second]]


@pytest.mark.parametrize("slug", ["late", "uri-conflict"])
async def test_a_refusal_ends_its_own_write_only_and_is_logged(
    harness: DeliveryHarness, slug: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    good, bad = [await harness.spool.append(update(name=name)) for name in "ab"]
    harness.central.script = [
        lambda batch: [Outcome(good, "applied"), Outcome(bad, "refused", {"type": slug})]
    ]
    waiting = [asyncio.create_task(harness.delivery.wait_settled(s, 30)) for s in (good, bad)]
    await asyncio.sleep(0)

    await harness.deliver_all()

    ended = [await task for task in waiting]
    assert [record.state for record in ended if record] == [
        WriteState.COMMITTED,
        WriteState.REFUSED,
    ]
    assert harness.count("sidecar_refused_writes_total", slug=slug) == 1
    (line,) = [record for record in caplog.records if record.message == "write refused"]
    assert line.levelname == ("INFO" if slug == "late" else "WARNING")


async def test_an_unforeseen_error_restarts_delivery_and_nothing_is_lost(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes between the commit of the outcomes and the index in memory."""
    seqs = [await harness.spool.append(update(name=name)) for name in "ab"]
    errors = iter([OverflowError("in the index")])

    def fail_once(*_: object) -> None:
        for error in errors:
            raise error

    monkeypatch.setattr(harness.spool.bindings, "apply", fail_once)
    tasks = Supervisor(harness.metrics.restarts, uniform=lambda low, high: 0.0)

    async with tasks.supervise("delivery", harness.delivery.run):
        await until(lambda: bool(harness.central.batches))
        last = await harness.spool.append(update(name="c"))
        record = await harness.delivery.wait_settled(last, 30)

    assert record is not None
    assert record.state is WriteState.COMMITTED
    assert [await state_of(harness.spool, seq) for seq in seqs] == [WriteState.COMMITTED] * 2
    assert harness.spool.queues.entry_count == 0
    assert harness.count("sidecar_task_restarts_total", task="delivery") == 1


@pytest.mark.parametrize("fault", [PROXY_413, relayed("batch-out-of-step", 409)], ids=str)
async def test_a_full_volume_keeps_no_batch_from_being_split_or_cut_anew(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    seqs = [await harness.spool.append(update(name="n" * 1000)) for _ in range(2)]
    assert await harness.spool.cut(flush=True)
    changes: dict[str, Callable[..., Any]] = {
        "withdraw": batches.withdraw,
        "start_epoch": batches.start_epoch,
    }
    attempts: list[str] = []

    def full_once(name: str, *args: Any) -> Any:
        attempts.append(name)
        if len(attempts) == 1:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return changes[name](*args)

    for name in changes:
        monkeypatch.setattr(batches, name, partial(full_once, name))
    harness.central.script = [fault]

    await harness.deliver_all()

    assert len(attempts) == 2
    assert len(harness.central.batches[0].entries) == 2
    assert harness.central.batches[1] != harness.central.batches[0]
    settled = [b for b in harness.central.batches[1:] if not b.is_withdrawn]
    assert [entry.seq for batch in settled for entry in batch.entries] == seqs


async def test_a_single_write_that_is_too_large_parks_delivery(harness: DeliveryHarness) -> None:
    seq = await harness.spool.append(update(name="n"))
    harness.central.script = [PROXY_413] * 3

    await harness.deliver_all()

    assert harness.central.numbers() == [[seq]] * 4
    assert len({batch.digest for batch in harness.central.batches}) == 1
    assert harness.count("sidecar_batches_total", outcome="parked") == 3
