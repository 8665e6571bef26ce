"""How often the disk is synced: once for a lone write and its batch, never for settling."""

import asyncio
import shutil
from pathlib import Path

import pytest

from sidecar.spool.entry import Priority, WriteState
from sidecar.spool.schema import FILE_NAME, WAL_SUFFIX
from sidecar.spool.wal import FRAME_BYTES
from tests.journeys.crashing.volume import age_by_a_boot
from tests.unit.sidecar.spool_fixtures import (
    EID,
    OTHER_EID,
    Spools,
    cut,
    numbers,
    settle,
    size_only,
    state_of,
    update,
)


async def test_lone_write_and_its_batch_share_one_sync_and_settling_has_none(
    spools: Spools,
) -> None:
    spool = await spools.open()
    before = spool.writer.sync_count
    cutting = asyncio.create_task(spool.cut_with_next_append())
    await asyncio.sleep(0)

    seq = await spool.append(update(name="n"))
    batch = await cutting
    assert numbers(batch) == [seq]
    assert spool.writer.sync_count - before == 1
    assert await spool.in_flight() == batch

    await settle(spool, batch)
    assert spool.writer.sync_count - before == 1
    assert await state_of(spool, seq) is WriteState.COMMITTED


async def test_batch_cut_with_its_append_is_sent_again_after_a_restart(spools: Spools) -> None:
    spool = await spools.open()
    cutting = asyncio.create_task(spool.cut_with_next_append())
    await asyncio.sleep(0)
    await spool.append(update(name="n"))
    batch = await cutting

    reopened = await spools.open()

    assert await reopened.in_flight() == batch
    assert (await cut(reopened)).number == batch.number  # still the one in flight, not a second


async def test_writes_of_one_commit_become_one_batch_in_order(spools: Spools) -> None:
    spool = await spools.open()
    cutting = asyncio.create_task(spool.cut_with_next_append())
    await asyncio.sleep(0)

    seqs = await asyncio.gather(
        *(spool.append(update(eid, name="n")) for eid in (EID, OTHER_EID, EID))
    )

    assert numbers(await cutting) == sorted(seqs)[: len(numbers(await cutting))]
    assert spool.queues.entry_count == 3


async def test_coalescible_write_is_left_to_the_ordinary_cut(spools: Spools) -> None:
    spool = await spools.open()
    cutting = asyncio.create_task(spool.cut_with_next_append())
    await asyncio.sleep(0)

    first = await spool.append(size_only(1))
    second = await spool.append(size_only(2))

    assert not cutting.done()
    cutting.cancel()
    assert numbers(await cut(spool)) == [second]
    assert first != second


@pytest.mark.parametrize("ticks", range(6))
async def test_batch_is_cut_once_if_the_piggyback_is_cancelled(spools: Spools, ticks: int) -> None:
    """The waiting is cancelled at any time around the commit: there is one batch, never two."""
    spool = await spools.open()
    cutting = asyncio.create_task(spool.cut_with_next_append())
    await asyncio.sleep(0)
    appending = asyncio.create_task(spool.append(update(name="n", priority=Priority.STATUS)))
    for _ in range(ticks):
        await asyncio.sleep(0)

    cutting.cancel()
    other = await spool.append(update(OTHER_EID, name="n"))
    seq = await appending
    batch = await spool.in_flight() or await cut(spool)

    assert set(numbers(batch)) <= {seq, other}
    assert (await cut(spool)).number == batch.number
    await settle(spool, batch)
    if left := spool.queues.entry_count:
        rest = await cut(spool)
        assert rest.number == batch.number + 1
        assert len(numbers(rest)) == left


async def test_settling_lost_in_a_power_failure_is_repeated(spools: Spools) -> None:
    """What a power cut would leave: the file as it was at its last sync."""
    spool = await spools.open()
    seq = await spool.append(update(name="n"))
    batch = await cut(spool)
    synced = copy(spools)
    await settle(spool, batch)
    await spools.close()
    restore(spools, synced)

    spool = await spools.open()
    assert await spool.in_flight() == batch
    await settle(spool, batch)
    assert await state_of(spool, seq) is WriteState.COMMITTED


def copy(spools: Spools) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in spools.directory.glob(f"{FILE_NAME}*")}


def restore(spools: Spools, files: dict[Path, bytes]) -> None:
    for path in spools.directory.glob(f"{FILE_NAME}*"):
        path.unlink()
    for path, content in files.items():
        path.write_bytes(content)
        age_by_a_boot(path)


async def test_settling_torn_in_a_power_failure_leaves_the_batch_unchanged(
    spools: Spools, tmp_path: Path
) -> None:
    spool = await spools.open()
    for name in ("a", "b"):
        await spool.append(update(name=name))
    batch = await cut(spool)
    log = spools.directory / (FILE_NAME + WAL_SUFFIX)
    synced_bytes = log.stat().st_size
    await settle(spool, batch)

    # Of the answer's frames, which nobody synced, the disk has all but the first.
    torn = tmp_path / "torn"
    shutil.copytree(spools.directory, torn)
    with (torn / log.name).open("r+b") as copy:
        copy.seek(synced_bytes)
        copy.write(bytes(FRAME_BYTES))
    age_by_a_boot(torn / log.name)
    await spools.close()
    after_the_cut = Spools(torn, spools.limits)
    spool = await after_the_cut.open()

    assert await spool.in_flight() == batch
    assert spool.epochs_started == 0
    await after_the_cut.close()
