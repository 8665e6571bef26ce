"""Acknowledged writes are kept, numbered and sent in order."""

import asyncio

import msgspec
import pytest

from sidecar.spool import batches
from sidecar.spool.entry import (
    Priority,
)
from tests.unit.sidecar.spool_fixtures import (
    EID,
    OTHER_EID,
    Spools,
    cut,
    epoch_of,
    numbers,
    settle,
    size_only,
    update,
)


async def test_appended_writes_survive_a_restart(spools: Spools) -> None:
    spool = await spools.open()
    appended = [await spool.append(update(name=f"n{n}")) for n in range(3)]

    spool = await spools.open()

    waiting = await spool.waiting(EID)
    assert [entry.seq for entry in waiting] == appended
    assert [msgspec.json.decode(entry.payload)["name"] for entry in waiting] == ["n0", "n1", "n2"]
    assert spool.queues.entry_count == 3
    assert spool.queues.size_bytes == sum(entry.size_bytes for entry in waiting)


async def test_payload_has_number_execution_time_and_operation(spools: Spools) -> None:
    spool = await spools.open()

    seq = await spool.append(update(name="n"))

    (entry,) = await spool.waiting(EID)
    assert msgspec.json.decode(entry.payload) == {
        "seq": seq,
        "execution_id": EID,
        "made_at_ms": 1_000_000,
        "op": "update_execution",
        "name": "n",
    }


async def test_restart_keeps_spool_id_and_epoch(spools: Spools) -> None:
    spool = await spools.open()
    name, epoch = spool.spool_id, await epoch_of(spool)

    spool = await spools.open()

    assert (spool.spool_id, await epoch_of(spool)) == (name, epoch)
    assert spool.epochs_started == 0


async def test_number_is_never_assigned_twice(spools: Spools) -> None:
    given: list[int] = []
    for _ in range(3):
        spool = await spools.open()
        given += [await spool.append(update(name="waits")), await spool.append(size_only(1))]
        given += [await spool.append(size_only(2))]
        await settle(spool, await cut(spool))

    assert given == sorted(set(given))


async def test_concurrent_appends_share_commits_and_get_distinct_numbers(
    spools: Spools,
) -> None:
    spool = await spools.open()
    before = spool.writer.commit_count

    seqs = await asyncio.gather(*(spool.append(update(name=f"n{n}")) for n in range(200)))

    assert len(set(seqs)) == 200
    assert spool.writer.commit_count - before < 200


async def test_write_of_a_cancelled_caller_is_kept(spools: Spools) -> None:
    spool = await spools.open()
    caller = asyncio.create_task(spool.append(update(name="n")))
    asyncio.get_running_loop().call_soon(caller.cancel)

    with pytest.raises(asyncio.CancelledError):
        await caller
    await spool.append(update(name="after"))

    names = [msgspec.json.decode(entry.payload)["name"] for entry in await spool.waiting(EID)]
    assert names == ["n", "after"]


# Order and batches


async def test_writes_are_sent_in_order_per_execution(spools: Spools) -> None:
    spool = await spools.open()
    mine, theirs = [], []
    for n in range(5):
        mine.append(await spool.append(update(EID, priority=Priority(n % 4), name=f"{n}")))
        theirs.append(await spool.append(update(OTHER_EID, name=f"{n}")))

    batch = await cut(spool)

    assert [entry.seq for entry in batch.entries if entry.execution_id == EID] == mine
    assert [entry.seq for entry in batch.entries if entry.execution_id == OTHER_EID] == theirs


async def test_execution_with_a_terminal_status_is_cut_first(spools: Spools) -> None:
    spool = await spools.open()
    for execution_id, priority in enumerate(reversed(Priority), start=1):
        await spool.append(update(execution_id, priority=priority, name="n"))

    batch = await cut(spool)

    assert [entry.priority for entry in batch.entries] == list(Priority)


async def test_cut_batch_is_identical_after_a_restart(spools: Spools) -> None:
    spool = await spools.open()
    for n in range(3):
        await spool.append(update(EID + n % 2, name=f"n{n}"))
    batch = await cut(spool)
    await spool.append(update(EID, name="too late for it"))

    spool = await spools.open()

    again = await spool.in_flight()
    assert again == batch
    assert again.digest == batches.digest_of(batch.entries)


async def test_empty_spool_cuts_no_batch(spools: Spools) -> None:
    spool = await spools.open()

    assert await spool.cut(flush=True) is None
    assert await spool.in_flight() is None


async def test_batches_are_numbered_consecutively(spools: Spools) -> None:
    spool = await spools.open()
    batches = []
    for _ in range(3):
        await spool.append(update(name="n"))
        batches.append(await cut(spool))
        await settle(spool, batches[-1])

    assert [batch.number for batch in batches] == [1, 2, 3]
    assert len({batch.epoch for batch in batches}) == 1


@pytest.mark.parametrize("is_last", [True, False])
async def test_entry_that_does_not_fit_ends_the_batch_and_starts_the_next(
    spools: Spools, is_last: bool
) -> None:
    spool = await spools.open()
    seqs = [await spool.append(update(name="x" * size)) for size in (300, 900, 10)]
    if not is_last:
        await spool.append(update(OTHER_EID, name="other"))

    first = await cut(spool, max_bytes=1_000)
    await settle(spool, first)
    second = await cut(spool, max_bytes=1_000)

    assert numbers(first) == seqs[:1]
    assert numbers(second)[0] == seqs[1]
