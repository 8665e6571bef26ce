"""Outcomes: what becomes of a write once central has answered."""

import asyncio
import threading

import pytest

from sidecar.spool.entry import Outcome, WriteState
from sidecar.spool.fault_injection import FaultPoint
from sidecar.spool.spool import Spool
from tests.unit.sidecar.spool_fixtures import (
    EID,
    OTHER_USER,
    USER,
    Spools,
    cut,
    numbers,
    settle,
    state_of,
    update,
)


async def test_new_epoch_cuts_unsettled_writes_again_from_batch_one(spools: Spools) -> None:
    spool = await spools.open()
    await spool.append(update(name="a"))
    await settle(spool, await cut(spool))
    await spool.append(update(name="b"))
    old = await cut(spool)

    epoch = await spool.start_epoch()

    new = await cut(spool)
    assert (new.epoch, new.number, new.entries) == (epoch, 1, old.entries)
    assert epoch != old.epoch
    assert spool.epochs_started == 1


# Settling


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("applied", WriteState.COMMITTED),
        ("late", WriteState.REFUSED),
        ("uri-conflict", WriteState.REFUSED),
    ],
)
async def test_outcome_survives_a_restart(spools: Spools, outcome: str, state: WriteState) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="n"))

    await settle(spool, await cut(spool), outcome)
    spool = await spools.open()

    assert await state_of(spool, seq) is state
    assert await spool.waiting(EID) == []
    assert await spool.in_flight() is None
    assert (spool.queues.entry_count, spool.queues.size_bytes) == (0, 0)


async def test_refused_write_keeps_its_problem(spools: Spools) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="n"))
    batch = await cut(spool)
    problem = {"type": "uri-conflict", "detail": "another is stored"}

    await spool.settle(batch, [Outcome(seq, "uri-conflict", problem)], lambda _: None)

    record = await spool.find(seq)
    assert record is not None
    assert (record.state, record.problem) == (WriteState.REFUSED, problem)


async def test_deferred_write_is_cut_again_after_its_delay(spools: Spools) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="n"))

    assert await settle(spool, await cut(spool), "deferred") == []

    assert await state_of(spool, seq) is WriteState.DURABLE
    assert await spool.in_flight() is None
    assert await spool.cut(flush=True) is None
    spools.now_s += 1
    batch = await cut(spool)
    assert (numbers(batch), batch.number) == ([seq], 2)


async def test_member_without_an_outcome_stays_durable(spools: Spools) -> None:
    spool = await spools.open()
    answered, unanswered = [await spool.append(update(name=name)) for name in "ab"]
    batch = await cut(spool)

    await spool.settle(batch, [Outcome(answered, "applied")], lambda _: None)

    assert await state_of(spool, answered) is WriteState.COMMITTED
    assert [entry.seq for entry in await spool.waiting(EID)] == [unanswered]


async def test_unknown_number_is_not_found(spools: Spools) -> None:
    spool = await spools.open()

    assert await spool.find(12345) is None


async def test_write_id_of_another_spool_is_unknown(spools: Spools) -> None:
    spool = await spools.open()

    assert spool.seq_of(spool.write_id(12)) == 12
    for write_id in ("", "12", f"{spool.spool_id}-", f"{spool.spool_id}-x", "000000000000-12"):
        assert spool.seq_of(write_id) is None


async def test_only_the_users_own_writes_are_listed_newest_first(spools: Spools) -> None:
    spool = await spools.open()
    settled = [await spool.append(update(user_id=user, name="s")) for user in (USER, OTHER_USER)]
    await settle(spool, await cut(spool))
    waiting = [await spool.append(update(user_id=user, name="w")) for user in (USER, OTHER_USER)]

    async def listed(user_id: int, state: WriteState | None, limit: int = 100) -> list[int]:
        records = await spool.list_writes(user_id, state, limit)
        assert all(record.user_id == user_id for record in records)
        return [record.seq for record in records]

    assert await listed(USER, None) == [waiting[0], settled[0]]
    assert await listed(OTHER_USER, None) == [waiting[1], settled[1]]
    assert await listed(USER, WriteState.DURABLE) == [waiting[0]]
    assert await listed(USER, WriteState.COMMITTED) == [settled[0]]
    assert await listed(USER, WriteState.REFUSED) == []
    assert await listed(USER, None, limit=1) == [waiting[0]]
    assert await listed(3, None) == []


class BlockingAfterCommit:
    """Once armed, keeps the writer's thread between a commit and its callback."""

    def __init__(self) -> None:
        self.is_armed = False
        self.committed = threading.Event()
        self.may_go_on = threading.Event()

    def hit(self, point: FaultPoint) -> None:
        if self.is_armed and point is FaultPoint.AFTER_COMMIT:
            self.committed.set()
            assert self.may_go_on.wait(30)


async def test_write_waits_for_readers_until_its_settlement_is_reported(spools: Spools) -> None:
    block = BlockingAfterCommit()
    spool = Spool(spools.directory, spools.limits, faults=block)
    await spool.open()
    seq = await spool.append(update(name="n"))
    batch = await cut(spool)
    block.is_armed = True

    settling = asyncio.create_task(settle(spool, batch))
    await asyncio.to_thread(block.committed.wait, 30)
    during = [entry.seq for entry in await spool.waiting(EID)], await spool.are_settled_up_to(seq)
    block.may_go_on.set()
    await settling
    after = await spool.waiting(EID), await spool.are_settled_up_to(seq)
    await spool.close()

    assert during == ([seq], False)
    assert after == ([], True)
