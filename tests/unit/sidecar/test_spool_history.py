"""Outcomes stay readable: the last 10,000, through restarts, those of replaced writes too."""

import asyncio

from sidecar.spool.batches import HISTORY_SIZE
from sidecar.spool.entry import WriteState
from sidecar.spool.spool import Spool
from tests.unit.sidecar.spool_fixtures import (
    OTHER_USER,
    USER,
    Spools,
    cut,
    settle,
    size_only,
    state_of,
    update,
)
from tests.unit.sidecar.spool_invariants import findings_in

MERGED = 20
AT_ONCE = 500


async def settled(spool: Spool, count: int) -> list[int]:
    """So many writes, made and ended. Their numbers, in the order of their ends."""
    seqs: list[int] = []
    for begun in range(0, count, AT_ONCE):
        new = (update(name="n") for _ in range(min(AT_ONCE, count - begun)))
        seqs += sorted(await asyncio.gather(*map(spool.append, new)))
        await settle(spool, await cut(spool))
    return seqs


async def test_last_ten_thousand_settled_writes_survive_restarts(
    spools: Spools,
) -> None:
    spool = await spools.open()
    oldest = await settled(spool, HISTORY_SIZE - MERGED + 5)
    merged = [await spool.append(size_only(size)) for size in range(MERGED)]
    await settle(spool, await cut(spool))  # one entry, and all whose place it took

    spool = await spools.open()
    kept = [await state_of(spool, seq) for seq in oldest[:7]]
    ends = {await state_of(spool, seq) for seq in merged}

    assert kept == [None] * 5 + [WriteState.COMMITTED] * 2
    assert ends == {WriteState.COMMITTED}
    (last,) = await settled(spool, 1)
    spool = await spools.open()
    kept = [await state_of(spool, seq) for seq in (*oldest[4:8], last)]
    assert kept == [None, None, WriteState.COMMITTED, WriteState.COMMITTED, WriteState.COMMITTED]
    listed = await spool.list_writes(USER, WriteState.COMMITTED, 2 * HISTORY_SIZE)
    assert len(listed) == HISTORY_SIZE
    assert findings_in(spools.directory) == []


async def test_number_of_a_forgotten_write_is_not_assigned_again(spools: Spools) -> None:
    spool = await spools.open()
    merged = [await spool.append(size_only(size)) for size in range(MERGED)]
    await settle(spool, await cut(spool))
    await settled(spool, HISTORY_SIZE)

    spool = await spools.open()

    assert await state_of(spool, merged[-1]) is None
    assert await spool.append(update(name="n")) > merged[-1] + HISTORY_SIZE


async def test_replaced_writes_are_listed_in_the_state_of_their_replacement(spools: Spools) -> None:
    spool = await spools.open()
    mine = [await spool.append(size_only(size)) for size in range(3)]
    theirs = [await spool.append(size_only(size, OTHER_USER, 8)) for size in range(2)]
    mine += [await spool.append(update(name="n"))]

    async def listed(user: int, state: WriteState | None, limit: int = 100) -> list[int]:
        return [record.seq for record in await spool.list_writes(user, state, limit)]

    newest_first = mine[::-1]
    assert await listed(USER, WriteState.DURABLE) == newest_first
    assert await listed(USER, None, limit=3) == newest_first[:3]
    assert await listed(USER, WriteState.COMMITTED) == []
    assert await listed(OTHER_USER, None) == theirs[::-1]
    spool = await spools.open()
    assert await listed(USER, WriteState.DURABLE) == newest_first

    await settle(spool, await cut(spool))

    assert await listed(USER, WriteState.DURABLE) == []
    assert await listed(USER, WriteState.COMMITTED) == newest_first
    assert await listed(USER, WriteState.COMMITTED, limit=2) == newest_first[:2]
