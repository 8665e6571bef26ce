"""Waiters and listeners are notified of every settlement, however it came about."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable

import pytest

from sidecar.problems import SpoolUnavailable
from sidecar.spool.entry import Batch, Outcome, WriteState
from sidecar.spool.fault_injection import FaultPoint
from sidecar.spool.queue_index import IndexSnapshot
from sidecar.upstream.resilience import BatchByteLimit
from tests.unit.sidecar.delivery_fixtures import DeliveryHarness, applied, until
from tests.unit.sidecar.spool_fixtures import EID, Spools, size_only, state_of, update

LONG_S = 600.0


async def finished(flush: "asyncio.Task[int]") -> int:
    """Its result, well before its own timeout."""
    async with asyncio.timeout(30):
        return await flush


async def corrupt(harness: DeliveryHarness, seq: int) -> None:
    """Changes a stored entry; the spool has not noticed yet."""
    edit = "UPDATE entries SET checksum = checksum + 1 WHERE seq = ?"
    await harness.spool._file.write(lambda connection: connection.execute(edit, (seq,)).rowcount)


def failing_after_the_next_commit(harness: DeliveryHarness) -> Callable[[Batch], list[Outcome]]:
    """An outcome whose settlement is committed and then reported as failed."""
    opened = harness.spool._file.writer._opened
    assert opened is not None

    def vanished() -> None:
        raise OSError("was replaced")

    def response(batch: Batch) -> list[Outcome]:
        opened.check_not_replaced = vanished  # type: ignore[method-assign]
        return applied(batch)

    return response


async def test_no_reader_finds_a_write_neither_pending_nor_notified(
    harness: DeliveryHarness,
) -> None:
    """The listener (the caches) is notified before the spool stops listing the write."""
    seq = await harness.spool.append(update(name="n"))
    gaps: set[str] = set()

    async def read_until_settled() -> None:
        while seq not in harness.listener.settled:
            is_pending = any(entry.seq == seq for entry in await harness.spool.waiting(EID))
            if not is_pending and seq not in harness.listener.settled:
                gaps.add("read of the file")

    async def check_index_until_settled() -> None:
        while seq not in harness.listener.settled:
            if not harness.spool.queues.length(EID):
                gaps.add("index")
            await asyncio.sleep(0)

    readers = asyncio.gather(read_until_settled(), check_index_until_settled())
    await asyncio.sleep(0)
    harness.start()
    async with asyncio.timeout(30):
        await readers

    assert gaps == set()


class HoldAfterCommit:
    """Stops the spool's writer between the commit and the update of the index."""

    def __init__(self) -> None:
        self.committed, self.may_continue = threading.Event(), threading.Event()

    def hit(self, point: FaultPoint) -> None:
        if point is FaultPoint.AFTER_COMMIT:
            self.committed.set()
            self.may_continue.wait(30)


async def test_a_read_between_commit_and_notification_finds_the_write_pending(
    harness: DeliveryHarness,
) -> None:
    seq = await harness.spool.append(update(name="n"))
    harness.central.may_respond.clear()
    harness.start()
    await until(lambda: bool(harness.central.batches))
    hold = harness.spool._file.writer._faults = HoldAfterCommit()
    harness.central.may_respond.set()
    await asyncio.to_thread(hold.committed.wait, 30)

    pending = await harness.spool.waiting(EID)
    hold.may_continue.set()
    await until(lambda: seq in harness.listener.settled)

    assert [entry.seq for entry in pending] == [seq]
    assert await harness.spool.waiting(EID) == []


async def test_a_corrupted_write_wakes_its_waiter_and_a_flush(harness: DeliveryHarness) -> None:
    seq = await harness.spool.append(update(name="n"))
    await corrupt(harness, seq)
    caller = asyncio.create_task(harness.delivery.wait_settled(seq, LONG_S))
    flush = asyncio.create_task(harness.delivery.flush(LONG_S))
    await asyncio.sleep(0)
    harness.start()

    assert await finished(flush) == 0
    record = await caller
    assert record is not None
    assert record.problem is not None
    assert (record.state, record.problem["type"]) == (WriteState.REFUSED, "write-corrupted")


async def test_a_settlement_found_in_a_reopened_file_wakes_its_waiter_and_a_flush(
    harness: DeliveryHarness,
) -> None:
    seq = await harness.spool.append(update(name="n"))
    harness.central.script = [failing_after_the_next_commit(harness)]
    caller = asyncio.create_task(harness.delivery.wait_settled(seq, LONG_S))
    flush = asyncio.create_task(harness.delivery.flush(LONG_S))
    await asyncio.sleep(0)
    harness.start()

    assert await finished(flush) == 0
    record = await caller
    assert record is not None
    assert record.state is WriteState.COMMITTED
    assert len(harness.central.batches) == 1
    labels = {"op": "update_execution", "state": "committed"}
    await until(lambda: harness.count("sidecar_writes_total", **labels) == 1)


async def test_a_write_lost_in_recovery_ends_its_wait_as_corrupted(
    harness: DeliveryHarness,
) -> None:
    seq = await harness.spool.append(update(name="n"))
    caller = asyncio.create_task(harness.delivery.wait_settled(seq, LONG_S))
    for _ in range(5):  # past its first read
        await harness.spool.find(seq)

    def lose(connection: sqlite3.Connection) -> IndexSnapshot:
        connection.execute("DELETE FROM entries")
        return IndexSnapshot.of(connection)

    await harness.spool._file.write(lose, harness.spool._load)

    async with asyncio.timeout(30):
        record = await caller
    assert record is not None
    assert record.problem is not None
    assert record.problem["type"] == "write-corrupted"


async def test_a_flush_waits_for_the_write_that_coalesced_an_earlier_one(
    harness: DeliveryHarness,
) -> None:
    """1 is replaced by 3, and a batch has room for 2 only, which came in between."""
    harness.delivery._byte_limit = BatchByteLimit(2_000)
    await harness.spool.append(size_only(1))
    flush = asyncio.create_task(harness.delivery.flush(LONG_S))
    await asyncio.sleep(0)
    between = await harness.spool.append(update(name="x" * 1_950))
    taker = await harness.spool.append(size_only(2))

    def then_none(batch: Batch) -> list[Outcome]:
        harness.central.may_respond.clear()
        return applied(batch)

    harness.central.script = [then_none]
    harness.start()
    await until(lambda: len(harness.central.batches) == 2)
    for _ in range(5):  # the flush has re-read the spool
        await harness.spool.find(between)
    is_early = flush.done()
    harness.central.may_respond.set()

    assert await finished(flush) == 0
    assert harness.central.numbers() == [[between], [taker]]
    assert not is_early


async def test_a_flush_of_an_unreadable_spool_fails(
    harness: DeliveryHarness, spools: Spools
) -> None:
    await harness.spool.append(update(name="n"))
    away = spools.directory.with_name("away")
    spools.directory.rename(away)
    with pytest.raises(SpoolUnavailable):
        await harness.spool.append(update(name="lost"))

    with pytest.raises(SpoolUnavailable):
        await harness.delivery.flush(LONG_S)

    away.rename(spools.directory)
    flush = asyncio.create_task(harness.delivery.flush(LONG_S))
    harness.start()
    assert await finished(flush) == 0
    await until(lambda: harness.spool.queues.entry_count == 0)


@pytest.mark.parametrize("is_interrupted", [False, True])
async def test_a_listener_that_always_fails_does_not_stop_delivery(
    harness: DeliveryHarness, caplog: pytest.LogCaptureFixture, is_interrupted: bool
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("always")

    harness.listener.on_settled = fail  # type: ignore[method-assign, assignment]
    if is_interrupted:
        harness.central.script = [failing_after_the_next_commit(harness)]
    seqs = [await harness.spool.append(update(name="n"))]
    harness.start()
    await until(lambda: harness.spool.queues.entry_count == 0)
    seqs.append(await harness.spool.append(update(name="n")))

    await harness.deliver_all()

    assert [await state_of(harness.spool, seq) for seq in seqs] == [WriteState.COMMITTED] * 2
    assert harness.listener.invalidation_count >= 2
    failures = harness.count("sidecar_settlement_listener_failures_total")
    assert failures == harness.listener.invalidation_count
    lines = [record for record in caplog.records if "listener failed" in record.message]
    assert [line.exc_info is not None for line in lines] == [True]
