"""Waiters: a caller of one write, a flush, a drain."""

import asyncio
import sqlite3

import pytest

from sidecar.problems import CentralUnavailable
from sidecar.spool.entry import Batch, Outcome, Priority, WriteState
from sidecar.spool.queue_index import IndexSnapshot
from tests.unit.sidecar.delivery_fixtures import (
    UNREACHABLE,
    DeliveryHarness,
    applied,
    harness_on,
    until,
)
from tests.unit.sidecar.spool_fixtures import OTHER_EID, Spools, size_only, state_of, update


async def test_a_flush_waits_for_writes_durable_at_its_start_only(harness: DeliveryHarness) -> None:
    first = await harness.spool.append(size_only(1))  # delayed, as it may be coalesced
    harness.central.may_respond.clear()
    harness.start()
    flush = asyncio.create_task(harness.delivery.flush(30))
    await until(lambda: bool(harness.central.batches))
    later = await harness.spool.append(update(execution_id=OTHER_EID, name="n"))

    def stall(batch: Batch) -> list[Outcome]:
        harness.central.may_respond.clear()
        return applied(batch)

    harness.central.script = [stall]
    harness.central.may_respond.set()

    assert await flush == 0
    assert await state_of(harness.spool, first) is WriteState.COMMITTED
    assert await state_of(harness.spool, later) is WriteState.DURABLE


async def test_a_flush_that_times_out_returns_the_number_left(harness: DeliveryHarness) -> None:
    for name in "ab":
        await harness.spool.append(update(name=name))
    harness.central.may_respond.clear()
    harness.start()

    assert await harness.delivery.flush(0.05) == 2


async def test_a_coalesced_write_is_flushed_with_its_replacement(harness: DeliveryHarness) -> None:
    await harness.spool.append(update(name="before"))
    await harness.spool.append(size_only(1))
    await harness.spool.append(size_only(2))
    harness.start()

    assert await harness.delivery.flush(30) == 0

    assert harness.spool.queues.entry_count == 0


async def test_a_wait_ends_with_the_settlement_or_the_timeout(harness: DeliveryHarness) -> None:
    seq = await harness.spool.append(update(name="n"))
    assert await harness.delivery.wait_settled(seq, 0.01) is None

    await harness.deliver_all()

    record = await harness.delivery.wait_settled(seq, 30)
    assert record is not None
    assert record.state is WriteState.COMMITTED


async def test_a_drain_during_a_backoff_retries_at_once(harness: DeliveryHarness) -> None:
    await harness.spool.append(update(name="n"))
    harness.central.script = [CentralUnavailable("busy", retry_after_s=60, has_retry_after=True)]
    harness.start()
    await until(lambda: bool(harness.waits_s))

    harness.delivery.begin_drain()
    await until(lambda: harness.spool.queues.entry_count == 0)

    assert len(harness.central.batches) == 2


async def test_after_an_outage_batch_sizes_double_from_small(harness: DeliveryHarness) -> None:
    """So a fleet does not send its whole backlog at the first response."""
    await harness.spool.append(update(name="first"))
    harness.central.script = [UNREACHABLE] * 3
    for number in range(1_999):
        await harness.spool.append(update(execution_id=number % 7, name="n"))

    await harness.deliver_all()

    sizes = [len(batch.entries) for batch in harness.central.batches]
    assert sizes[:3] == [1000] * 3  # cut before the first failure, and fixed
    assert sizes[3:] == [1000, 100, 200, 400, 300]


async def test_durable_writes_are_delivered_when_the_volume_returns(
    harness: DeliveryHarness, spools: Spools
) -> None:
    """Without a further append: the run is over."""
    seq = await harness.spool.append(update(priority=Priority.TERMINAL, status="COMPLETED"))
    await spools.close()
    away = spools.directory.with_name("away")
    spools.directory.rename(away)
    spools.directory.write_text("in the way")
    spool = await spools.open()  # an unusable volume does not prevent the start
    returned = harness_on(spools, spool)
    returned.start()
    for _ in range(10):  # delivery is idle
        await asyncio.sleep(0)

    spools.directory.unlink()
    away.rename(spools.directory)
    await spool.vacuum()  # as maintenance does each minute

    await until(lambda: spool.queues.entry_count == 0)
    assert await state_of(spool, seq) is WriteState.COMMITTED
    await returned.stop()


async def test_an_entry_found_corrupted_at_start_is_reported_as_refused(
    harness: DeliveryHarness, spools: Spools, caplog: pytest.LogCaptureFixture
) -> None:
    seq = await harness.spool.append(update(name="n"))
    await spools.close()
    spools.edit("UPDATE entries SET priority = 99 WHERE seq = ?", seq)

    started = harness_on(spools, await spools.open())
    await started.deliver_all()

    assert started.spool.quarantined_count == 1
    assert started.count("sidecar_refused_writes_total", slug="write-corrupted") == 1
    assert "write refused" in caplog.text
    assert await state_of(started.spool, seq) is WriteState.REFUSED


async def test_a_batch_lost_to_corruption_in_flight_does_not_stop_delivery(
    harness: DeliveryHarness,
) -> None:
    """The file is reopened without the batch's entries; then the outcomes arrive."""
    await harness.spool.append(update(name="n"))
    harness.central.may_respond.clear()
    harness.start()
    await until(lambda: bool(harness.central.batches))

    def lose(connection: sqlite3.Connection) -> IndexSnapshot:
        connection.execute("DELETE FROM entries")
        connection.execute("DELETE FROM in_flight")
        return IndexSnapshot.of(connection)

    await harness.spool._file.write(lose, harness.spool._load)
    harness.central.may_respond.set()
    later = await harness.spool.append(update(execution_id=OTHER_EID, name="n"))
    await until(lambda: harness.spool.queues.entry_count == 0)

    assert await state_of(harness.spool, later) is WriteState.COMMITTED
    assert not harness.running.done()
