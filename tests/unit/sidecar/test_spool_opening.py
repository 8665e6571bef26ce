"""The connections to the file, SQLite's locks, and what a restart finds."""

import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.problems import SpoolUnavailable
from sidecar.spool.file import CHECKPOINT_FROM_FRAMES
from sidecar.spool.schema import FILE_NAME, SHM_SUFFIX, WAL_SUFFIX
from sidecar.spool.wal import FRAME_BYTES
from tests.unit.sidecar.damage_fixtures import copy_as_killed
from tests.unit.sidecar.spool_fixtures import EID, Spools, cut, numbers, settle, update

IS_FREE = """
import fcntl, sys
with open(sys.argv[1], "r+b") as index:
    fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)
"""
"""Succeeds where nobody holds the byte by which SQLite tells whether it is the first to come."""


async def test_second_reader_does_not_rebuild_the_index_of_an_open_log(
    spools: Spools,
) -> None:
    """The first makes the log's index anew, from under everybody who has it open."""
    spool = await spools.open()
    await spool.append(update(name="n"))
    index = str(spools.directory / (FILE_NAME + SHM_SUFFIX))

    done = subprocess.run([sys.executable, "-c", IS_FREE, index], check=False, stderr=-3)  # noqa: ASYNC221

    assert done.returncode != 0


async def test_log_stays_bounded_under_load(spools: Spools) -> None:
    spool = await spools.open()
    log = spools.directory / (FILE_NAME + WAL_SUFFIX)

    for _ in range(5 * CHECKPOINT_FROM_FRAMES // 50):
        await spool.append(update(name="n" * 180_000))  # some fifty pages
        await settle(spool, await cut(spool))

    assert log.stat().st_size < 1.2 * CHECKPOINT_FROM_FRAMES * FRAME_BYTES


async def test_closed_spool_leaves_no_log_and_skips_no_numbers(spools: Spools) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="n"))
    assert len(await spool.waiting(EID)) == 1  # read on a connection of its own

    await spools.close()

    assert not (spools.directory / (FILE_NAME + WAL_SUFFIX)).exists()
    spool = await spools.open()
    assert await spool.append(update(name="n")) == seq + 1


async def test_read_after_a_lost_volume_uses_the_reopened_file(spools: Spools) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="n"))
    away = spools.directory.with_name("away")
    spools.directory.rename(away)
    with pytest.raises(SpoolUnavailable):
        await spool.append(update(name="lost"))
    with pytest.raises(SpoolUnavailable):
        await spool.waiting(EID)
    away.rename(spools.directory)

    waiting = await spool.waiting(EID)

    assert waiting[0].seq == seq
    assert numbers(await cut(spool)) == [entry.seq for entry in waiting]


async def test_number_of_a_write_that_a_crash_lost_is_not_assigned_again(
    spools: Spools, tmp_path: Path
) -> None:
    """The volume comes back as it was before the last write, without a trace of it."""
    spool = await spools.open()
    await spool.append(update(name="kept"))
    copy_as_killed(spools.directory, tmp_path / "killed")
    lost = await spool.append(update(name="lost"))
    await spools.close()
    crashed = Spools(tmp_path / "killed", spools.limits)

    spool = await crashed.open()

    assert await spool.append(update(name="new")) > lost
    await crashed.close()
