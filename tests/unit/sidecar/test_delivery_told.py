"""Those who wait are told however a write ends, and not before."""

import asyncio
import sqlite3
from collections.abc import Callable

import pytest

from sidecar.problems import SpoolUnavailable
from sidecar.spool import batching
from sidecar.spool.entry import Batch, Outcome, WriteState
from sidecar.spool.snapshot import Snapshot
from tests.unit.sidecar.delivering import Bench, applied, until
from tests.unit.sidecar.spooling import Spools, size_only, update

LONG_S = 600.0


async def soon(flush: "asyncio.Task[int]") -> int:
    """Its answer, long before its own time is over."""
    async with asyncio.timeout(30):
        return await flush


async def damage(bench: Bench, seq: int) -> None:
    """The entry's bytes are not what was stored; nobody has noticed yet."""
    edit = "UPDATE entries SET checksum = checksum + 1 WHERE seq = ?"
    await bench.spool._file.write(lambda connection: connection.execute(edit, (seq,)).rowcount)


def trouble_after_the_next_commit(bench: Bench) -> Callable[[Batch], list[Outcome]]:
    """Central's answer to a batch: its settling is committed, and the file then lost sight of."""
    opened = bench.spool._file._committer._opened
    assert opened is not None

    def vanished() -> None:
        raise OSError("was replaced")

    def answer(batch: Batch) -> list[Outcome]:
        opened.check_not_replaced = vanished  # type: ignore[method-assign]
        return applied(batch)

    return answer


async def test_a_caller_and_a_flush_are_told_of_a_write_that_was_set_aside(bench: Bench) -> None:
    seq = await bench.spool.append(update(name="n"))
    await damage(bench, seq)
    caller = asyncio.create_task(bench.delivery.wait_settled(seq, LONG_S))
    flush = asyncio.create_task(bench.delivery.flush(LONG_S))
    await asyncio.sleep(0)
    bench.start()

    assert await soon(flush) == 0
    record = await caller
    assert record is not None
    assert record.problem is not None
    assert (record.state, record.problem["type"]) == (WriteState.REFUSED, "write-corrupted")


async def test_a_caller_and_a_flush_are_told_of_an_end_that_a_reopened_file_knows(
    bench: Bench,
) -> None:
    seq = await bench.spool.append(update(name="n"))
    bench.central.script = [trouble_after_the_next_commit(bench)]
    caller = asyncio.create_task(bench.delivery.wait_settled(seq, LONG_S))
    flush = asyncio.create_task(bench.delivery.flush(LONG_S))
    await asyncio.sleep(0)
    bench.start()

    assert await soon(flush) == 0
    record = await caller
    assert record is not None
    assert record.state is WriteState.COMMITTED
    assert len(bench.central.batches) == 1
    told = {"op": "update_execution", "state": "committed"}
    await until(lambda: bench.count("sidecar_writes_total", **told) == 1)


async def test_a_caller_is_told_of_a_write_that_a_salvage_lost(bench: Bench) -> None:
    seq = await bench.spool.append(update(name="n"))
    caller = asyncio.create_task(bench.delivery.wait_settled(seq, LONG_S))
    for _ in range(5):  # it has looked, and waits
        await bench.spool.find(seq)

    def lose(connection: sqlite3.Connection) -> Snapshot:
        connection.execute("DELETE FROM entries")
        return Snapshot.of(connection)

    await bench.spool._file.write(lose, bench.spool._load)

    async with asyncio.timeout(30):
        record = await caller
    assert record is not None
    assert record.problem is not None
    assert record.problem["type"] == "write-corrupted"


async def test_a_flush_waits_for_the_write_that_took_the_place_of_one_it_was_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 is replaced by 3, and a batch has room for 2 only, which came in between."""
    monkeypatch.setattr(batching, "BATCH_MAX_BYTES", 2_000)
    await bench.spool.append(size_only(1))
    flush = asyncio.create_task(bench.delivery.flush(LONG_S))
    await asyncio.sleep(0)
    between = await bench.spool.append(update(name="x" * 1_950))
    taker = await bench.spool.append(size_only(2))

    def then_none(batch: Batch) -> list[Outcome]:
        bench.central.may_answer.clear()
        return applied(batch)

    bench.central.script = [then_none]
    bench.start()
    await until(lambda: len(bench.central.batches) == 2)
    for _ in range(5):  # whoever was told of the first has had a look
        await bench.spool.find(between)
    is_early = flush.done()
    bench.central.may_answer.set()

    assert await soon(flush) == 0
    assert bench.central.numbers() == [[between], [taker]]
    assert not is_early


async def test_a_flush_of_a_spool_that_cannot_be_read_does_not_say_that_all_is_delivered(
    bench: Bench, spools: Spools
) -> None:
    await bench.spool.append(update(name="n"))
    away = spools.directory.with_name("away")
    spools.directory.rename(away)
    with pytest.raises(SpoolUnavailable):
        await bench.spool.append(update(name="lost"))

    with pytest.raises(SpoolUnavailable):
        await bench.delivery.flush(LONG_S)

    away.rename(spools.directory)
    flush = asyncio.create_task(bench.delivery.flush(LONG_S))
    bench.start()
    assert await soon(flush) == 0
    await until(lambda: bench.spool.queues.entry_count == 0)
