"""Size-only writes coalesce while they wait; a full spool keeps room for terminal statuses."""

import msgspec
import pytest

from sidecar.problems import SpoolFull
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.entry import (
    Priority,
    WriteState,
)
from sidecar.spool.spool import COALESCE_WINDOW_S, Spool
from tests.unit.sidecar.spool_fixtures import (
    EID,
    OTHER_EID,
    OTHER_USER,
    USER,
    Spools,
    cut,
    settle,
    size_only,
    state_of,
    update,
)


async def test_size_only_writes_to_one_row_coalesce_and_share_the_outcome(spools: Spools) -> None:
    spool = await spools.open()
    seqs = [await spool.append(size_only(size)) for size in (1, 2, 3)]

    (entry,) = await spool.waiting(EID)
    assert (entry.seq, msgspec.json.decode(entry.payload)["bytes"]) == (seqs[-1], 3)
    for seq in seqs:
        assert await state_of(spool, seq) is WriteState.DURABLE
    records = await settle(spool, await cut(spool))

    assert sorted(record.seq for record in records) == seqs
    for seq in seqs:
        assert await state_of(spool, seq) is WriteState.COMMITTED


async def test_size_only_write_waits_for_the_coalesce_window(spools: Spools) -> None:
    spool = await spools.open()
    await spool.append(size_only(1))

    assert await spool.cut() is None
    spools.now_s += COALESCE_WINDOW_S

    assert await spool.cut() is not None


async def test_size_only_write_in_a_batch_is_not_replaced(spools: Spools) -> None:
    spool = await spools.open()
    first = await spool.append(size_only(1))
    batch = await cut(spool)

    second = await spool.append(size_only(2))

    assert [entry.seq for entry in await spool.waiting(EID)] == [first, second]
    assert await spool.in_flight() == batch


async def test_size_only_writes_of_different_users_do_not_coalesce(spools: Spools) -> None:
    spool = await spools.open()
    seqs = [await spool.append(size_only(user, user_id=user)) for user in (USER, OTHER_USER)]

    waiting = await spool.waiting(EID)

    assert [(entry.seq, entry.user_id) for entry in waiting] == [
        (seqs[0], USER),
        (seqs[1], OTHER_USER),
    ]


async def test_size_only_writes_of_different_executions_do_not_coalesce(spools: Spools) -> None:
    spool = await spools.open()

    for execution_id in (EID, OTHER_EID):
        await spool.append(size_only(1, execution_id=execution_id))

    assert spool.queues.entry_count == 2


# Fullness


async def fill(spool: Spool) -> int:
    """Appends until an ordinary write is refused; how many were taken."""
    for count in range(1000):
        try:
            await spool.append(update(count, name="x" * 1000))
        except SpoolFull:
            return count
    raise AssertionError("it never got full")


async def test_full_spool_refuses_ordinary_writes_and_accepts_terminal_ones(
    spools: Spools,
) -> None:
    spools.limits = SpoolLimits(64 * 1024)
    spool = await spools.open()
    taken = await fill(spool)

    assert spool.is_full
    for priority in (Priority.STATUS, Priority.URI, Priority.NORMAL):
        with pytest.raises(SpoolFull) as refusal:
            await spool.append(update(priority=priority, name="n"))
        assert refusal.value.headers["Retry-After"] == "5"
    await spool.append(update(priority=Priority.TERMINAL, status="COMPLETED"))

    assert spool.queues.entry_count == taken + 1


async def until_refused(spool: Spool) -> None:
    for execution_id in range(1000):
        await spool.append(update(execution_id, priority=Priority.TERMINAL, status="FAILED"))


async def test_terminal_writes_are_refused_above_the_whole_size(spools: Spools) -> None:
    spools.limits = SpoolLimits(16 * 1024)
    spool = await spools.open()
    await fill(spool)

    with pytest.raises(SpoolFull):
        await until_refused(spool)

    assert spool.queues.size_bytes <= spools.limits.max_bytes + 1024


async def test_drained_spool_accepts_ordinary_writes_again(spools: Spools) -> None:
    spools.limits = SpoolLimits(64 * 1024)
    spool = await spools.open()
    await fill(spool)

    await settle(spool, await cut(spool))

    await spool.append(update(name="n"))
    assert not spool.is_full
