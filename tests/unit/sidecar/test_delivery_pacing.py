"""The minimum interval between batches, and what is exempt from it."""

import asyncio

import pytest

from sidecar.delivery import pacing
from sidecar.spool.entry import Priority, WriteState
from tests.unit.sidecar.delivery_fixtures import DeliveryHarness, until
from tests.unit.sidecar.spool_fixtures import OTHER_EID, Spools, state_of, update


@pytest.fixture
def _endless_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interval that only urgent work ends: the harness's clock stands still."""
    monkeypatch.setattr(pacing, "MIN_BATCH_INTERVAL_S", 1e6)


async def deliver_first(harness: DeliveryHarness) -> None:
    """A first batch has just been delivered."""
    harness.start()
    await harness.spool.append(update(name="first"))
    await until(lambda: harness.spool.queues.entry_count == 0)


async def test_writes_within_the_interval_share_a_batch(
    harness: DeliveryHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "MIN_BATCH_INTERVAL_S", 0.2)
    await deliver_first(harness)

    seqs = [await harness.spool.append(update(name=f"n{number}")) for number in range(20)]
    await until(lambda: harness.spool.queues.entry_count == 0)

    assert harness.central.numbers()[1:] == [seqs]


async def test_a_write_after_an_idle_interval_is_sent_at_once(
    harness: DeliveryHarness, spools: Spools
) -> None:
    await deliver_first(harness)
    loop = asyncio.get_running_loop()

    for number in range(3):
        spools.now_s += 1
        begun_at = loop.time()
        await harness.spool.append(update(name=f"n{number}"))
        await until(lambda: harness.spool.queues.entry_count == 0)
        assert loop.time() - begun_at < 5

    assert [len(batch.entries) for batch in harness.central.batches] == [1, 1, 1, 1]


@pytest.mark.usefixtures("_endless_interval")
async def test_a_terminal_status_is_sent_at_once_with_everything_before_it(
    harness: DeliveryHarness,
) -> None:
    await deliver_first(harness)
    before = await harness.spool.append(update(name="before"))
    other = await harness.spool.append(update(execution_id=OTHER_EID, name="of another run"))
    await asyncio.sleep(0.05)
    assert len(harness.central.batches) == 1, "the interval is not over"

    end = await harness.spool.append(update(priority=Priority.TERMINAL, status="COMPLETED"))
    await until(lambda: harness.spool.queues.entry_count == 0)

    assert harness.central.numbers()[1:] == [[before, end, other]]


@pytest.mark.usefixtures("_endless_interval")
async def test_after_urgent_work_the_interval_applies_again(harness: DeliveryHarness) -> None:
    await deliver_first(harness)
    await harness.spool.append(update(name="waits"))
    await harness.spool.append(update(priority=Priority.TERMINAL, status="COMPLETED"))
    await until(lambda: harness.spool.queues.entry_count == 0)

    await harness.spool.append(update(execution_id=OTHER_EID, name="can wait"))
    await asyncio.sleep(0.05)

    assert len(harness.central.batches) == 2
    assert await harness.delivery.flush(30) == 0


@pytest.mark.usefixtures("_endless_interval")
async def test_a_write_with_a_waiter_is_sent_at_once(harness: DeliveryHarness) -> None:
    await deliver_first(harness)
    seq = await harness.spool.append(update(name="waited for"))

    record = await harness.delivery.wait_settled(seq, 30)

    assert record is not None
    assert record == await harness.spool.find(seq)


@pytest.mark.usefixtures("_endless_interval")
async def test_a_flush_and_a_drain_ignore_the_interval(harness: DeliveryHarness) -> None:
    await deliver_first(harness)
    seq = await harness.spool.append(update(name="flushed"))
    assert await harness.delivery.flush(30) == 0

    last = await harness.spool.append(update(name="drained"))
    await harness.deliver_all()

    states = [await state_of(harness.spool, number) for number in (seq, last)]
    assert states == [WriteState.COMMITTED] * 2
