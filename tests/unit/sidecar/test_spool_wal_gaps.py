"""A log with a gap: the commits behind it are restored, nothing is delivered twice."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sidecar.spool import schema
from sidecar.spool.bindings import GRACE_AFTER_END_MS, Binding, Grant
from sidecar.spool.entry import WriteState
from sidecar.spool.recovery import MAX_FOLDERS, QUARANTINE
from sidecar.spool.schema import FILE_NAME
from sidecar.spool.spool import Spool
from sidecar.spool.wal import FRAME_BYTES, FRAME_HEADER_BYTES, HEADER_BYTES, WalFile
from tests.journeys.crashing.volume import age_by_a_boot
from tests.unit.sidecar.damage_fixtures import LOG_NAME, copy_as_killed
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
from tests.unit.sidecar.spool_invariants import findings_in


def frames_of(directory: Path) -> int:
    return len(WalFile(directory / FILE_NAME).frames)


def lose_frame(directory: Path, number: int) -> None:
    """The disk has never had it."""
    with (directory / LOG_NAME).open("r+b") as log:
        log.seek(HEADER_BYTES + (number - 1) * FRAME_BYTES)
        log.write(bytes(FRAME_BYTES))


def flip_bytes(directory: Path, number: int) -> None:
    """In the page's last rows: the frame's head stays."""
    with (directory / LOG_NAME).open("r+b") as log:
        log.seek(HEADER_BYTES + (number - 1) * FRAME_BYTES + FRAME_HEADER_BYTES + 4_000)
        old = log.read(90)
        log.seek(-len(old), os.SEEK_CUR)
        log.write(bytes(octet ^ 0xFF for octet in old))


def lose_salts(directory: Path, number: int) -> None:
    with (directory / LOG_NAME).open("r+b") as log:
        log.seek(HEADER_BYTES + (number - 1) * FRAME_BYTES + 8)
        log.write(b"\xff" * 4)


DAMAGES = pytest.mark.parametrize("damage", [lose_frame, flip_bytes, lose_salts])


async def killed(spools: Spools, to: Path) -> Spools:
    """What the spool would leave if it was killed now, closed meanwhile."""
    copy_as_killed(spools.directory, to)
    await spools.close()
    return Spools(to, spools.limits)


async def test_replacement_behind_a_gap_decides_the_outcome_of_what_it_replaced(
    spools: Spools, tmp_path: Path
) -> None:
    spool = await spools.open()
    first = await spool.append(size_only(1))
    await spool.vacuum()  # the log begins anew
    other = await spool.append(update(OTHER_EID, name="torn"))
    torn = frames_of(spools.directory)
    second = await spool.append(size_only(2))
    third = await spool.append(size_only(3))
    left = await killed(spools, tmp_path / "killed")
    lose_frame(left.directory, torn)

    spool = await left.open()

    assert [entry.seq for entry in await spool.waiting(EID)] == [third]
    states = [await state_of(spool, seq) for seq in (first, second, third)]
    assert states == [WriteState.DURABLE] * 3
    assert spool.queues.coalesced_count == 2
    assert findings_in(left.directory) == []
    ended = await settle(spool, await cut(spool))
    assert {record.seq for record in ended} - {other} == {first, second, third}
    assert (spool.queues.coalesced_count, spool.queues.size_bytes) == (0, 0)
    await left.close()


async def test_the_newer_binding_is_restored_after_the_older_one_was_forgotten(
    spools: Spools, tmp_path: Path
) -> None:
    older = Binding(EID, 1, 1, 1, None, created_here=True)
    newer = replace(older, workflow_id=2)
    grant = Grant(b"d" * 32, EID, 1, 9_999_999_999)
    spool = await spools.open()
    for _ in range(3):
        await spool.bindings.record(older, grant)
    await spool.vacuum()  # the log begins anew
    await spool.append(update(OTHER_EID, name="torn"))
    torn = frames_of(spools.directory)
    await spool.bindings.end([EID])
    spools.now_s += GRACE_AFTER_END_MS / 1000
    await spool.bindings.purge()
    await spool.bindings.record(newer, grant)
    left = await killed(spools, tmp_path / "killed")
    lose_frame(left.directory, torn)

    spool = await left.open()

    restored = spool.bindings.binding(EID)
    assert restored is not None
    assert (restored.workflow_id, restored.ended_at_ms) == (2, None)
    assert findings_in(left.directory) == []
    await left.close()


@pytest.mark.parametrize("seed", range(40))
async def test_partly_lost_unsynced_commits_leave_the_batch_whole_or_settled(
    spools: Spools, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    spool = await spools.open()
    members = [await spool.append(update(name="n" * 5_000)) for _ in range(8)]
    batch = await cut(spool)
    waiting = await spool.append(update(OTHER_EID, name="waits"))
    synced = frames_of(spools.directory)
    await settle(spool, batch)
    for _ in range(2):
        await spool._file.write(schema.vacuum_step, needs_sync=False)
    unsynced = range(synced + 1, frames_of(spools.directory) + 1)
    assert len(unsynced) > 5
    left = await killed(spools, tmp_path / "killed")
    share = chance.random()
    for number in unsynced:
        if chance.random() < share:
            lose_frame(left.directory, number)
    age_by_a_boot(left.directory / LOG_NAME)

    spool = await left.open()

    again = await spool.in_flight()
    assert again in (batch, None)
    states = {await state_of(spool, seq) for seq in members}
    assert states == {WriteState.DURABLE if again else WriteState.COMMITTED}
    assert [entry.seq for entry in await spool.waiting(OTHER_EID)] == [waiting]
    assert (spool.epochs_started, spool.quarantined_count) == (0, 0)
    assert findings_in(left.directory) == []
    if again is not None:
        await settle(spool, again)
    assert numbers(await cut(spool)) == [waiting]
    await left.close()


async def test_quarantine_keeps_the_newest_folder(spools: Spools, tmp_path: Path) -> None:
    spool: Spool = await spools.open()
    await spool.append(update(name="n"))
    torn = frames_of(spools.directory)
    await spool.append(update(name="m"))
    left = await killed(spools, tmp_path / "killed")
    lose_frame(left.directory, torn)
    shutil.copytree(left.directory, tmp_path / "torn")

    for _ in range(4):
        await left.open()
        await left.close()
        shutil.copytree(tmp_path / "torn", left.directory, dirs_exist_ok=True)

    folders = [path for path in (left.directory / QUARANTINE).iterdir() if path.is_dir()]
    assert len(folders) == MAX_FOLDERS
    assert (folders[0] / LOG_NAME).read_bytes() == (tmp_path / "torn" / LOG_NAME).read_bytes()


async def test_gap_is_restored_on_a_volume_without_room_for_evidence(
    spools: Spools, tmp_path: Path
) -> None:
    spool = await spools.open()
    await spool.append(update(name="n"))
    torn = frames_of(spools.directory)
    seq = await spool.append(update(name="m"))
    left = await killed(spools, tmp_path / "killed")
    lose_frame(left.directory, torn)
    (left.directory / QUARANTINE).write_text("in the way")

    spool = await left.open()

    assert [entry.seq for entry in await spool.waiting(EID)][-1] == seq
    await left.close()


async def test_restored_gap_is_not_reported_at_the_next_start(
    spools: Spools, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = await spools.open()
    await spool.append(update(name="n"))
    torn = frames_of(spools.directory)
    for _ in range(5):
        await spool.append(update(name="m"))
    left = await killed(spools, tmp_path / "killed")
    lose_frame(left.directory, torn)
    await left.open()
    again = await killed(left, tmp_path / "again")
    assert "damaged log" in caplog.text
    caplog.clear()

    spool = await again.open()

    assert len(await spool.waiting(EID)) >= 5
    assert "damaged log" not in caplog.text
    assert not (again.directory / QUARANTINE).exists()
    await again.close()


@pytest.mark.parametrize("has_torn_settle", [False, True])
async def test_an_entry_of_the_last_commit_is_not_counted_after_a_power_cut(
    spools: Spools, tmp_path: Path, has_torn_settle: bool
) -> None:
    """A power cut in its sync leaves any of its frames; the settling before it was not synced."""
    spool = await spools.open()
    acknowledged = [await spool.append(update(name="x")) for _ in range(2)]
    batch = await cut(spool)
    await spool.vacuum()  # the log begins anew
    if has_torn_settle:
        await settle(spool, batch)
    first = frames_of(spools.directory) + 1
    await spool.append(update(name="n" * 20_000))
    last = frames_of(spools.directory)
    left = await killed(spools, tmp_path / "killed")
    assert last - first > 4

    for number in range(first, last):
        torn = Spools(tmp_path / f"without-{number}", spools.limits)
        copy_as_killed(left.directory, torn.directory)
        lose_frame(torn.directory, number)
        if has_torn_settle:
            lose_frame(torn.directory, 1)
        age_by_a_boot(torn.directory / LOG_NAME)
        spool = await torn.open()

        assert spool.quarantined_count == 0
        assert spool.bindings.is_complete or has_torn_settle  # of a settling that is not known
        assert {await state_of(spool, seq) for seq in acknowledged} <= set(WriteState)
        await torn.close()


@DAMAGES
async def test_a_binding_of_the_last_commit_is_missed_after_damage_without_a_power_cut(
    spools: Spools, tmp_path: Path, damage: Callable[[Path, int], None]
) -> None:
    """It was acknowledged, and a start that does not miss it would end its run as orphaned."""
    spool = await spools.open()
    await spool.append(update(name="x"))
    await spool.vacuum()  # the log begins anew, over frames of its earlier generation
    await spool.append(update(name="y"))
    first = frames_of(spools.directory) + 1
    binding = Binding(EID, 1, 1, 1, None, created_here=True)
    await spool.bindings.record(binding, Grant(b"d" * 32, EID, 1, 9_999_999_999))
    last = frames_of(spools.directory)
    left = await killed(spools, tmp_path / "killed")
    assert last > first

    for number in range(first, last + 1):
        damaged = Spools(tmp_path / f"without-{number}", spools.limits)
        copy_as_killed(left.directory, damaged.directory)
        damage(damaged.directory, number)
        spool = await damaged.open()

        assert not spool.bindings.is_complete
        await damaged.close()


@DAMAGES
async def test_an_entry_of_the_last_commit_is_kept_or_counted_after_damage_without_a_power_cut(
    spools: Spools, tmp_path: Path, damage: Callable[[Path, int], None]
) -> None:
    spool = await spools.open()
    await spool.vacuum()  # the log begins anew
    earlier = await spool.append(update(name="x"))
    first = frames_of(spools.directory) + 1
    seq = await spool.append(update(name="n" * 20_000))
    last = frames_of(spools.directory)
    left = await killed(spools, tmp_path / "killed")
    assert last - first > 4

    lost_counts = []
    for number in range(first, last + 1):
        damaged = Spools(tmp_path / f"without-{number}", spools.limits)
        copy_as_killed(left.directory, damaged.directory)
        damage(damaged.directory, number)
        spool = await damaged.open()

        waiting = [entry.seq for entry in await spool.waiting(EID)]
        assert earlier in waiting
        assert (seq in waiting) is (spool.quarantined_count == 0)
        lost_counts.append(spool.quarantined_count)
        await damaged.close()
    assert sum(lost_counts) > 0


@pytest.mark.parametrize("frames", [1, 3])
async def test_a_process_killed_within_a_commit_has_lost_nothing(
    spools: Spools, tmp_path: Path, frames: int
) -> None:
    """Its log ends between two frames, or within one, or in frames of an earlier generation."""
    spool = await spools.open()
    await spool.append(update(name="x" * 50_000))
    old = (spools.directory / LOG_NAME).read_bytes()
    await spool.vacuum()
    await spool.append(update(name="y"))
    whole = frames_of(spools.directory)
    await spool.append(update(name="n" * 20_000))
    left = await killed(spools, tmp_path / "killed")
    log = left.directory / LOG_NAME
    kept = HEADER_BYTES + (whole + frames) * FRAME_BYTES
    start = log.read_bytes()[:kept]

    for content in (start, start + bytes(FRAME_HEADER_BYTES), start + old[kept:]):
        log.write_bytes(content)
        torn = Spools(tmp_path / f"torn-{len(content)}", spools.limits)
        copy_as_killed(left.directory, torn.directory)
        spool = await torn.open()

        assert (spool.quarantined_count, spool.bindings.is_complete) == (0, True)
        await torn.close()


async def test_an_entry_of_an_earlier_commit_is_counted(spools: Spools, tmp_path: Path) -> None:
    spool = await spools.open()
    await spool.vacuum()  # the log begins anew
    await spool.append(update(name="n" * 20_000))
    frames = frames_of(spools.directory)
    await spool.append(update(name="x"))
    left = await killed(spools, tmp_path / "killed")
    lose_frame(left.directory, frames)  # the last of its overflow pages

    spool = await left.open()

    assert spool.quarantined_count == 1
    assert not spool.bindings.is_complete
    await left.close()
