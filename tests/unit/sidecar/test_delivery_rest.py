"""A line that has just been used rests for a moment, but for what cannot wait."""

import asyncio

import pytest

from sidecar.delivery import pacing
from sidecar.spool.entry import Priority, WriteState
from tests.unit.sidecar.delivering import Bench, until
from tests.unit.sidecar.spooling import OTHER_EID, Spools, state_of, update


@pytest.fixture
def _for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rest that only what cannot wait ends: the clock of the bench stands still."""
    monkeypatch.setattr(pacing, "MIN_BATCH_INTERVAL_S", 1e6)


async def used(bench: Bench) -> None:
    """A line that has just brought over a first write."""
    bench.start()
    await bench.spool.append(update(name="first"))
    await until(lambda: bench.spool.queues.entry_count == 0)


async def test_writes_that_follow_each_other_share_a_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "MIN_BATCH_INTERVAL_S", 0.2)
    await used(bench)

    seqs = [await bench.spool.append(update(name=f"n{number}")) for number in range(20)]
    await until(lambda: bench.spool.queues.entry_count == 0)

    assert bench.central.numbers()[1:] == [seqs]


async def test_a_line_that_was_idle_sends_at_once(bench: Bench, spools: Spools) -> None:
    await used(bench)
    loop = asyncio.get_running_loop()

    for number in range(3):
        spools.now_s += 1
        begun_at = loop.time()
        await bench.spool.append(update(name=f"n{number}"))
        await until(lambda: bench.spool.queues.entry_count == 0)
        assert loop.time() - begun_at < 5

    assert [len(batch.entries) for batch in bench.central.batches] == [1, 1, 1, 1]


@pytest.mark.usefixtures("_for_ever")
async def test_the_end_of_a_run_goes_at_once_and_takes_along_what_is_before_it(
    bench: Bench,
) -> None:
    await used(bench)
    before = await bench.spool.append(update(name="before"))
    other = await bench.spool.append(update(execution_id=OTHER_EID, name="of another run"))
    await asyncio.sleep(0.05)
    assert len(bench.central.batches) == 1, "it rests"

    end = await bench.spool.append(update(priority=Priority.TERMINAL, status="COMPLETED"))
    await until(lambda: bench.spool.queues.entry_count == 0)

    assert bench.central.numbers()[1:] == [[before, end, other]]


@pytest.mark.usefixtures("_for_ever")
async def test_after_what_could_not_wait_it_rests_again(bench: Bench) -> None:
    await used(bench)
    await bench.spool.append(update(name="waits"))
    await bench.spool.append(update(priority=Priority.TERMINAL, status="COMPLETED"))
    await until(lambda: bench.spool.queues.entry_count == 0)

    await bench.spool.append(update(execution_id=OTHER_EID, name="can wait"))
    await asyncio.sleep(0.05)

    assert len(bench.central.batches) == 2
    assert await bench.delivery.flush(30) == 0


@pytest.mark.usefixtures("_for_ever")
async def test_what_somebody_waits_for_goes_at_once(bench: Bench) -> None:
    await used(bench)
    seq = await bench.spool.append(update(name="waited for"))

    record = await bench.delivery.wait_settled(seq, 30)

    assert record is not None
    assert record == await bench.spool.find(seq)


@pytest.mark.usefixtures("_for_ever")
async def test_a_flush_and_a_drain_do_not_rest(bench: Bench) -> None:
    await used(bench)
    seq = await bench.spool.append(update(name="flushed"))
    assert await bench.delivery.flush(30) == 0

    last = await bench.spool.append(update(name="drained"))
    await bench.deliver_all()

    states = [await state_of(bench.spool, number) for number in (seq, last)]
    assert states == [WriteState.COMMITTED] * 2
