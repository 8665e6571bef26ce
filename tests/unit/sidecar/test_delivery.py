"""What each answer of central's does to a batch."""

import asyncio

import pytest

from sidecar.problems import CentralUnavailable
from sidecar.spool.entry import Batch, Outcome, WriteState
from tests.unit.sidecar.delivering import PROXY_PAGE, UNREACHABLE, Bench, applied, relayed, until
from tests.unit.sidecar.spooling import EID, OTHER_EID, Spools, state_of, update


@pytest.mark.parametrize(
    "trouble",
    [
        UNREACHABLE,
        PROXY_PAGE,
        CentralUnavailable("busy", retry_after_s=0.01, has_retry_after=True),
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
    monkeypatch.setattr("sidecar.delivery.loop.MAX_RETRY_AFTER_S", 0.05)
    await bench.spool.append(update(name="n"))
    bench.central.script = [
        CentralUnavailable("busy", retry_after_s=86_400, has_retry_after=True),
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
    assert bench.spool.epochs_started == 2
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
