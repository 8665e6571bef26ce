"""A size-only write in a batch is not replaced, and replacements do not delay it without end."""

import asyncio
from pathlib import Path

import pytest

from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.entry import NewEntry, Outcome, Priority, WriteState
from sidecar.spool.spool import Spool


def size_only(size: int) -> NewEntry:
    members = {"operator_id": "op", "bytes": size}
    return NewEntry(7, 1, "set_console_bytes", members, Priority.NORMAL, "console op")


@pytest.mark.parametrize("cut_first", [True, False])
async def test_member_of_a_cut_batch_is_not_replaced(tmp_path: Path, cut_first: bool) -> None:
    spool = Spool(tmp_path, SpoolLimits(64 * 1024 * 1024))
    await spool.open()
    other = NewEntry(7, 1, "update_execution", {"name": "n"}, Priority.NORMAL)
    await spool.append(other)
    first = await spool.append(size_only(1))

    if cut_first:
        batch, second = await asyncio.gather(spool.cut(flush=True), spool.append(size_only(2)))
    else:
        second, batch = await asyncio.gather(spool.append(size_only(2)), spool.cut(flush=True))
    assert batch is not None
    members = [entry.seq for entry in batch.entries]
    resent = await spool.in_flight()

    assert resent == batch  # what was cut is what would be sent again
    await spool.settle(batch, [Outcome(seq, "applied") for seq in members], lambda records: None)
    rest = await spool.cut(flush=True)
    if rest is not None:
        await spool.settle(rest, [Outcome(e.seq, "applied") for e in rest.entries], lambda r: None)
    for seq in (first, second):
        record = await spool.find(seq)
        assert record is not None
        assert record.state is WriteState.COMMITTED
    assert spool.queues.entry_count == 0
    assert spool.queues.size_bytes == 0
    await spool.close()


async def test_replacements_do_not_extend_the_coalesce_window(tmp_path: Path) -> None:
    now = 1000.0
    spool = Spool(tmp_path, SpoolLimits(64 * 1024 * 1024), monotonic=lambda: now)
    await spool.open()
    for size in range(4):
        await spool.append(size_only(size))
        now += 0.4

    assert await spool.cut() is not None  # the first has waited for 1.6 s

    await spool.close()
