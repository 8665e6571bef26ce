"""Those who wait for deliveries: a caller, a flush, a drain."""

import asyncio
import sqlite3

import pytest

from sidecar.problems import CentralUnavailable
from sidecar.spool.entry import Batch, Outcome, Priority, WriteState
from sidecar.spool.snapshot import Snapshot
from tests.unit.sidecar.delivering import UNREACHABLE, Bench, applied, bench_on, until
from tests.unit.sidecar.spooling import OTHER_EID, Spools, size_only, state_of, update


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

    record = await bench.delivery.wait_settled(seq, 30)
    assert record is not None
    assert record.state is WriteState.COMMITTED


async def test_a_drain_that_meets_a_backoff_makes_one_try_at_once(bench: Bench) -> None:
    await bench.spool.append(update(name="n"))
    bench.central.script = [CentralUnavailable("busy", retry_after_s=60, has_retry_after=True)]
    bench.start()
    await until(lambda: bool(bench.waits_s))

    bench.delivery.begin_drain()
    await until(lambda: bench.spool.queues.entry_count == 0)

    assert len(bench.central.batches) == 2


async def test_after_an_outage_batches_grow_from_small_ones(bench: Bench) -> None:
    """Of a fleet that waited, nobody sends all that it has at the first answer."""
    await bench.spool.append(update(name="first"))
    bench.central.script = [UNREACHABLE] * 3
    for number in range(1_999):
        await bench.spool.append(update(execution_id=number % 7, name="n"))

    await bench.deliver_all()

    sizes = [len(batch.entries) for batch in bench.central.batches]
    assert sizes[:3] == [1000] * 3  # cut before anything was known, and sent as it is
    assert sizes[3:] == [1000, 100, 200, 400, 300]


async def test_what_waits_is_delivered_when_the_volume_is_back(
    bench: Bench, spools: Spools
) -> None:
    """Nobody writes any more: a run that is over makes no further append."""
    seq = await bench.spool.append(update(priority=Priority.TERMINAL, status="COMPLETED"))
    await spools.close()
    away = spools.directory.with_name("away")
    spools.directory.rename(away)
    spools.directory.write_text("in the way")
    spool = await spools.open()  # a volume in trouble does not prevent the start
    returned = bench_on(spools, spool)
    returned.start()
    for _ in range(10):  # delivery has found nothing to do, and waits for the next append
        await asyncio.sleep(0)

    spools.directory.unlink()
    away.rename(spools.directory)
    await spool.vacuum()  # as housekeeping does each minute

    await until(lambda: spool.queues.entry_count == 0)
    assert await state_of(spool, seq) is WriteState.COMMITTED
    await returned.stop()


async def test_an_entry_found_damaged_at_the_start_is_told_as_refused(
    bench: Bench, spools: Spools, caplog: pytest.LogCaptureFixture
) -> None:
    seq = await bench.spool.append(update(name="n"))
    await spools.close()
    spools.edit("UPDATE entries SET priority = 99 WHERE seq = ?", seq)

    started = bench_on(spools, await spools.open())
    await started.deliver_all()

    assert started.spool.quarantined_count == 1
    assert started.count("sidecar_refused_writes_total", type="write-corrupted") == 1
    assert "write refused" in caplog.text
    assert await state_of(started.spool, seq) is WriteState.REFUSED


async def test_a_run_lost_to_damage_while_its_batch_is_under_way_ends_nothing_else(
    bench: Bench,
) -> None:
    """The file is opened anew and does not hold the members any more; then the answer comes."""
    await bench.spool.append(update(name="n"))
    bench.central.may_answer.clear()
    bench.start()
    await until(lambda: bool(bench.central.batches))

    def lose(connection: sqlite3.Connection) -> Snapshot:
        connection.execute("DELETE FROM entries")
        connection.execute("DELETE FROM in_flight")
        return Snapshot.of(connection)

    await bench.spool._file.write(lose, bench.spool._load)
    bench.central.may_answer.set()
    later = await bench.spool.append(update(execution_id=OTHER_EID, name="n"))
    await until(lambda: bench.spool.queues.entry_count == 0)

    assert await state_of(bench.spool, later) is WriteState.COMMITTED
    assert not bench.running.done()
