"""Random damage to file and log: the start is never stopped, what can be read is kept, and what
cannot is counted.

Outcomes come out of order, as central defers executions whose rows are locked. The oracle looks for
documents in the raw bytes, before and after; it knows nothing of the format.
"""

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from sidecar.spool import schema
from sidecar.spool.batches import BatchDamaged
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.entry import Batch, NewEntry, Outcome, Priority
from sidecar.spool.queue_index import DEFER_MAX_S
from sidecar.spool.spool import Spool
from tests.databases import open_folder
from tests.unit.sidecar.damage_fixtures import copy_as_killed, damage, readable

EXECUTIONS = 7


@pytest.fixture
def folder_in_memory() -> Iterator[Path]:
    """These lives are many, and their syncs prove nothing."""
    with open_folder() as folder:
        yield folder


async def a_life(directory: Path, chance: random.Random) -> tuple[set[int], set[int]]:
    """A spool that has worked for a while and was killed. Numbers that wait, and all given."""
    now_s = 0.0
    live = Spool(directory / "live", SpoolLimits(64 * 1024 * 1024), monotonic=lambda: now_s)
    await live.open()
    waiting: set[int] = set()
    given: set[int] = set()
    for _ in range(chance.choice([3, 10, 40])):
        for _ in range(chance.randrange(1, 30)):
            priority = chance.choice(list(Priority))
            members = {"name": "n" * chance.choice([5, 50, 300])}
            eid = chance.randrange(1, EXECUTIONS + 1)
            seq = await live.append(NewEntry(eid, 1, "update_execution", members, priority))
            waiting.add(seq)
            given.add(seq)
        if chance.random() < 0.1:
            await live.vacuum()  # writes the log back to the file
        if chance.random() < 0.4:
            batch = await live.in_flight() or await live.cut(flush=True)
            if batch is not None and chance.random() < 0.8:
                outcomes = deferring(batch, chance)
                await live.settle(batch, outcomes, lambda records: None)
                waiting -= {o.seq for o in outcomes if o.outcome == "applied"}
            now_s += chance.choice([0.0, DEFER_MAX_S])
    copy_as_killed(directory / "live", directory / "killed")
    await live.close()
    return waiting, given


def deferring(batch: Batch, chance: random.Random) -> list[Outcome]:
    """Central's outcomes while the rows of some executions are locked."""
    locked = {eid for eid in range(1, EXECUTIONS + 1) if chance.random() < 0.3}
    return [
        Outcome(entry.seq, "deferred" if entry.execution_id in locked else "applied")
        for entry in batch.entries
    ]


@dataclass(frozen=True)
class NextStart:
    """What a sidecar started on the directory knows of the writes before it."""

    sent: list[int]
    """What it sends to central, in order."""
    recorded: set[int]
    """Settled writes that a caller can still ask for."""
    quarantined_count: int
    new: int
    """The number of its first own write."""


async def next_batch(spool: Spool) -> Batch | None:
    try:
        return await spool.in_flight() or await spool.cut(flush=True)
    except BatchDamaged:
        await spool.abandon_batch()
        return await spool.cut(flush=True)


async def start_on(directory: Path, given: set[int]) -> NextStart:
    spool = Spool(directory, SpoolLimits(64 * 1024 * 1024))
    await spool.open()
    try:
        assert spool.unavailable_because is None
        sent: list[int] = []
        while batch := await next_batch(spool):
            sent += [entry.seq for entry in batch.entries]
            outcomes = [Outcome(entry.seq, "applied") for entry in batch.entries]
            await spool.settle(batch, outcomes, lambda records: None)
        assert spool.queues.entry_count == 0
        recorded = {seq for seq in given if await spool.find(seq) is not None}
        write = NewEntry(1, 1, "update_execution", {"name": "new"}, Priority.NORMAL)
        new = await spool.append(write)
        return NextStart(sent, recorded, spool.quarantined_count, new)
    finally:
        await spool.close()


def lost_without_a_trace(start: NextStart, waiting: set[int]) -> set[int]:
    """Acknowledged writes that are neither sent, nor recorded, nor counted.

    The newest do not count: a log whose end is cut off, and one whose last commit has no frame
    left, look as if that had never been acknowledged.
    """
    known = set(start.sent) | start.recorded
    missing = {seq for seq in waiting - known if seq < max(known, default=0)}
    return missing if not start.quarantined_count else set()


@pytest.mark.parametrize("seed", range(40))
async def test_writes_are_sent_or_counted_after_random_damage_and_no_number_twice(
    folder_in_memory: Path, seed: int
) -> None:
    chance = random.Random(seed)
    waiting, given = await a_life(folder_in_memory, chance)
    before, damaged = folder_in_memory / "killed", folder_in_memory / "damaged"
    shutil.copytree(before, damaged)
    parts = damage(damaged, chance)

    start = await start_on(damaged, given)

    kept = readable(before, parts) & waiting
    assert kept <= set(start.sent)
    assert lost_without_a_trace(start, waiting) == set()
    assert len(start.sent) == len(set(start.sent))
    assert set(start.sent) <= given
    assert start.new > max(given)


@pytest.mark.parametrize("seed", range(20))
async def test_a_file_of_another_version_is_refused_unchanged_or_if_damaged_kept_and_counted(
    folder_in_memory: Path, seed: int
) -> None:
    chance = random.Random(seed)
    waiting, given = await a_life(folder_in_memory, chance)
    damaged = folder_in_memory / "killed"
    file = damaged / schema.FILE_NAME
    has_other_tables = chance.random() < 0.7
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(
            f"PRAGMA user_version = {schema.FORMAT_VERSION + chance.choice([-1, 1])}"
        )
        if has_other_tables:
            connection.execute("ALTER TABLE settled ADD COLUMN something_new TEXT")
    parts = damage(damaged, chance) if chance.random() < 0.6 else []
    content = file.read_bytes()

    try:
        start = await start_on(damaged, given)
    except schema.UnknownFormat:
        assert has_other_tables
        assert file.read_bytes() == content
        assert not (damaged / "quarantine").exists()
        return

    assert parts or not has_other_tables
    assert lost_without_a_trace(start, waiting) == set()
    assert start.new > max(given)
    assert any((damaged / "quarantine").glob(f"*/{schema.FILE_NAME}"))
