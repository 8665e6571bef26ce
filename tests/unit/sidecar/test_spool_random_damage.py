"""Random damage to file and log: the start is never stopped, what can be read is kept.

The oracle looks for documents in the raw bytes, before and after; it knows nothing of the format.
"""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.entry import NewEntry, Outcome, Priority
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
    live = Spool(directory / "live", SpoolLimits(64 * 1024 * 1024))
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
            assert batch is not None
            members_ = [entry.seq for entry in batch.entries]
            if chance.random() < 0.8:
                outcomes = [Outcome(seq, "applied") for seq in members_]
                await live.settle(batch, outcomes, lambda records: None)
                waiting -= set(members_)
    copy_as_killed(directory / "live", directory / "killed")
    await live.close()
    return waiting, given


async def delivered(directory: Path) -> list[int]:
    """What a sidecar started on the directory would send to central, in order."""
    spool = Spool(directory, SpoolLimits(64 * 1024 * 1024))
    await spool.open()
    assert spool.unavailable_because is None
    sent: list[int] = []
    while batch := await spool.in_flight() or await spool.cut(flush=True):
        sent += [entry.seq for entry in batch.entries]
        outcomes = [Outcome(entry.seq, "applied") for entry in batch.entries]
        await spool.settle(batch, outcomes, lambda records: None)
    assert spool.queues.entry_count == 0
    new = await spool.append(NewEntry(1, 1, "update_execution", {"name": "new"}, Priority.NORMAL))
    await spool.close()
    return [*sent, new]


@pytest.mark.parametrize("seed", range(40))
async def test_readable_writes_are_delivered_after_random_damage_and_no_number_twice(
    folder_in_memory: Path, seed: int
) -> None:
    chance = random.Random(seed)
    waiting, given = await a_life(folder_in_memory, chance)
    before, damaged = folder_in_memory / "killed", folder_in_memory / "damaged"
    shutil.copytree(before, damaged)
    parts = damage(damaged, chance)

    *sent, new = await delivered(damaged)

    kept = readable(before, parts) & waiting
    assert kept <= set(sent)
    assert len(sent) == len(set(sent))
    assert set(sent) <= given
    assert new > max(given)
