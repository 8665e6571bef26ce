"""The spool's promises: what was acknowledged is kept, in order, and told to its owner only."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.problems import SpoolFull
from sidecar.spool import ledger
from sidecar.spool.entry import (
    Batch,
    NewEntry,
    Outcome,
    Urgency,
    WriteRecord,
    WriteState,
    checksum,
)
from sidecar.spool.limits import SpoolLimits
from sidecar.spool.schema import FILE_NAME
from sidecar.spool.spool import MERGE_WINDOW_S, Spool

USER, OTHER_USER = 1, 2
EID, OTHER_EID = 7, 8


class Spools:
    """One directory and the spool open on it; `reopen` closes it and opens the next."""

    def __init__(self, directory: Path, limits: SpoolLimits) -> None:
        self.directory = directory
        self.limits = limits
        self.now_s = 1000.0
        self._open: Spool | None = None

    async def open(self) -> Spool:
        await self.close()
        self._open = Spool(
            self.directory,
            self.limits,
            wall_clock=lambda: self.now_s,
            monotonic=lambda: self.now_s,
        )
        await self._open.open()
        return self._open

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()
            self._open = None

    def edit(self, sql: str, *values: object) -> None:
        """Changes the file of a closed spool behind its back."""
        assert self._open is None
        with closing(sqlite3.connect(self.directory / FILE_NAME, isolation_level=None)) as file:
            file.execute(sql, values)

    def flip(self, seq: int) -> None:
        """Changes one byte of a stored document."""
        self.edit(
            "UPDATE entries SET document = CAST(substr(document, 1, length(document) - 3) || 'X'"
            " || substr(document, -2) AS BLOB) WHERE seq = ?",
            seq,
        )


@pytest.fixture
async def spools(tmp_path: Path) -> AsyncIterator[Spools]:
    async with AsyncExitStack() as stack:
        spools = Spools(tmp_path / "spool", SpoolLimits(64 * 1024 * 1024))
        stack.push_async_callback(spools.close)
        yield spools


def update(
    execution_id: int = EID,
    user_id: int = USER,
    urgency: Urgency = Urgency.REST,
    **members: Any,
) -> NewEntry:
    return NewEntry(execution_id, user_id, "update_execution", members, urgency)


def size_only(size: int, user_id: int = USER, execution_id: int = EID) -> NewEntry:
    members = {"operator_id": "op", "bytes": size}
    return NewEntry(execution_id, user_id, "set_console_bytes", members, Urgency.REST, "console op")


async def cut(spool: Spool) -> Batch:
    batch = await spool.cut(hurry=True)
    assert batch is not None
    return batch


async def settle(spool: Spool, batch: Batch, outcome: str = "applied") -> list[WriteRecord]:
    told: list[Sequence[WriteRecord]] = []
    outcomes = [Outcome(entry.seq, outcome) for entry in batch.entries]
    records = await spool.settle(batch, outcomes, told.append)
    assert told == [records]
    return records


def numbers(batch: Batch) -> list[int]:
    return [entry.seq for entry in batch.entries]


async def state_of(spool: Spool, seq: int) -> WriteState | None:
    record = await spool.find(seq)
    return record.state if record is not None else None


# Durability


async def test_what_was_appended_is_there_after_a_restart(spools: Spools) -> None:
    spool = await spools.open()
    appended = [await spool.append(update(name=f"n{n}")) for n in range(3)]

    spool = await spools.open()

    waiting = await spool.waiting(EID)
    assert [entry.seq for entry in waiting] == appended
    assert [msgspec.json.decode(entry.document)["name"] for entry in waiting] == ["n0", "n1", "n2"]
    assert spool.queues.entry_count == 3
    assert spool.queues.size_bytes == sum(entry.size_bytes for entry in waiting)


async def test_a_document_names_its_number_execution_time_and_operation(spools: Spools) -> None:
    spool = await spools.open()

    seq = await spool.append(update(name="n"))

    (entry,) = await spool.waiting(EID)
    assert msgspec.json.decode(entry.document) == {
        "seq": seq,
        "execution_id": EID,
        "made_at_ms": 1_000_000,
        "op": "update_execution",
        "name": "n",
    }


async def test_a_restart_keeps_the_spools_name_and_epoch(spools: Spools) -> None:
    spool = await spools.open()
    name, epoch = spool.spool_id, await epoch_of(spool)

    spool = await spools.open()

    assert (spool.spool_id, await epoch_of(spool)) == (name, epoch)
    assert spool.epochs_begun == 0


async def epoch_of(spool: Spool) -> str:
    seq = await spool.append(update(execution_id=99, name="probe"))
    batch = await cut(spool)
    assert seq in numbers(batch)
    await settle(spool, batch)
    return batch.epoch


async def test_a_number_is_never_given_twice(spools: Spools) -> None:
    given: list[int] = []
    for _ in range(3):
        spool = await spools.open()
        given += [await spool.append(update(name="waits")), await spool.append(size_only(1))]
        given += [await spool.append(size_only(2))]
        await settle(spool, await cut(spool))

    assert given == sorted(set(given))


async def test_concurrent_appends_share_commits_and_get_numbers_of_their_own(
    spools: Spools,
) -> None:
    spool = await spools.open()
    before = spool.commit_count

    seqs = await asyncio.gather(*(spool.append(update(name=f"n{n}")) for n in range(200)))

    assert len(set(seqs)) == 200
    assert spool.commit_count - before < 200


async def test_a_caller_that_leaves_does_not_take_its_write_along(spools: Spools) -> None:
    spool = await spools.open()
    caller = asyncio.create_task(spool.append(update(name="n")))
    asyncio.get_running_loop().call_soon(caller.cancel)

    with pytest.raises(asyncio.CancelledError):
        await caller
    await spool.append(update(name="after"))

    names = [msgspec.json.decode(entry.document)["name"] for entry in await spool.waiting(EID)]
    assert names == ["n", "after"]


# Order and batches


async def test_each_executions_writes_are_sent_in_their_order(spools: Spools) -> None:
    spool = await spools.open()
    mine, theirs = [], []
    for n in range(5):
        mine.append(await spool.append(update(EID, urgency=Urgency(n % 4), name=f"{n}")))
        theirs.append(await spool.append(update(OTHER_EID, name=f"{n}")))

    batch = await cut(spool)

    assert [entry.seq for entry in batch.entries if entry.execution_id == EID] == mine
    assert [entry.seq for entry in batch.entries if entry.execution_id == OTHER_EID] == theirs


async def test_an_execution_with_a_terminal_status_goes_first(spools: Spools) -> None:
    spool = await spools.open()
    for execution_id, urgency in enumerate(reversed(Urgency), start=1):
        await spool.append(update(execution_id, urgency=urgency, name="n"))

    batch = await cut(spool)

    assert [entry.urgency for entry in batch.entries] == list(Urgency)


async def test_a_cut_batch_is_the_same_to_the_byte_after_a_restart(spools: Spools) -> None:
    spool = await spools.open()
    for n in range(3):
        await spool.append(update(EID + n % 2, name=f"n{n}"))
    batch = await cut(spool)
    await spool.append(update(EID, name="too late for it"))

    spool = await spools.open()

    again = await spool.in_flight()
    assert again == batch
    assert again.digest == ledger.digest_of(batch.entries)


async def test_nothing_waits_means_no_batch(spools: Spools) -> None:
    spool = await spools.open()

    assert await spool.cut(hurry=True) is None
    assert await spool.in_flight() is None


async def test_batches_are_numbered_in_a_row(spools: Spools) -> None:
    spool = await spools.open()
    batches = []
    for _ in range(3):
        await spool.append(update(name="n"))
        batches.append(await cut(spool))
        await settle(spool, batches[-1])

    assert [batch.number for batch in batches] == [1, 2, 3]
    assert len({batch.epoch for batch in batches}) == 1


async def test_a_new_epoch_cuts_what_is_unsettled_anew_from_batch_one(spools: Spools) -> None:
    spool = await spools.open()
    await spool.append(update(name="a"))
    await settle(spool, await cut(spool))
    await spool.append(update(name="b"))
    old = await cut(spool)

    epoch = await spool.begin_epoch()

    new = await cut(spool)
    assert (new.epoch, new.number, new.entries) == (epoch, 1, old.entries)
    assert epoch != old.epoch
    assert spool.epochs_begun == 1


# Settling


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("applied", WriteState.COMMITTED),
        ("late", WriteState.REFUSED),
        ("uri-conflict", WriteState.REFUSED),
    ],
)
async def test_an_answered_write_is_settled_for_good(
    spools: Spools, outcome: str, state: WriteState
) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="n"))

    await settle(spool, await cut(spool), outcome)
    spool = await spools.open()

    assert await state_of(spool, seq) is state
    assert await spool.waiting(EID) == []
    assert await spool.in_flight() is None
    assert (spool.queues.entry_count, spool.queues.size_bytes) == (0, 0)


async def test_a_refusal_keeps_its_problem(spools: Spools) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="n"))
    batch = await cut(spool)
    problem = {"type": "uri-conflict", "detail": "another is stored"}

    await spool.settle(batch, [Outcome(seq, "uri-conflict", problem)], lambda _: None)

    record = await spool.find(seq)
    assert record is not None
    assert (record.state, record.problem) == (WriteState.REFUSED, problem)


async def test_a_deferred_write_stays_and_is_cut_again_after_its_hold(spools: Spools) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="n"))

    assert await settle(spool, await cut(spool), "deferred") == []

    assert await state_of(spool, seq) is WriteState.DURABLE
    assert await spool.in_flight() is None
    assert await spool.cut(hurry=True) is None
    spools.now_s += 1
    batch = await cut(spool)
    assert (numbers(batch), batch.number) == ([seq], 2)


async def test_a_member_without_an_answer_stays(spools: Spools) -> None:
    spool = await spools.open()
    answered, unanswered = [await spool.append(update(name=name)) for name in "ab"]
    batch = await cut(spool)

    await spool.settle(batch, [Outcome(answered, "applied")], lambda _: None)

    assert await state_of(spool, answered) is WriteState.COMMITTED
    assert [entry.seq for entry in await spool.waiting(EID)] == [unanswered]


async def test_a_write_that_was_never_made_is_not_found(spools: Spools) -> None:
    spool = await spools.open()

    assert await spool.find(12345) is None


async def test_a_write_id_names_a_write_of_this_spool_only(spools: Spools) -> None:
    spool = await spools.open()

    assert spool.seq_of(spool.write_id(12)) == 12
    for stranger in ("", "12", f"{spool.spool_id}-", f"{spool.spool_id}-x", "000000000000-12"):
        assert spool.seq_of(stranger) is None


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


# Merging


async def test_size_only_writes_to_one_row_merge_and_share_the_outcome(spools: Spools) -> None:
    spool = await spools.open()
    seqs = [await spool.append(size_only(size)) for size in (1, 2, 3)]

    (entry,) = await spool.waiting(EID)
    assert (entry.seq, msgspec.json.decode(entry.document)["bytes"]) == (seqs[-1], 3)
    for seq in seqs:
        assert await state_of(spool, seq) is WriteState.DURABLE
    records = await settle(spool, await cut(spool))

    assert sorted(record.seq for record in records) == seqs
    for seq in seqs:
        assert await state_of(spool, seq) is WriteState.COMMITTED


async def test_size_only_writes_wait_a_moment_for_a_later_one(spools: Spools) -> None:
    spool = await spools.open()
    await spool.append(size_only(1))

    assert await spool.cut() is None
    spools.now_s += MERGE_WINDOW_S

    assert await spool.cut() is not None


async def test_a_size_only_write_in_a_batch_is_not_replaced(spools: Spools) -> None:
    spool = await spools.open()
    first = await spool.append(size_only(1))
    batch = await cut(spool)

    second = await spool.append(size_only(2))

    assert [entry.seq for entry in await spool.waiting(EID)] == [first, second]
    assert await spool.in_flight() == batch


async def test_size_only_writes_of_different_users_do_not_merge(spools: Spools) -> None:
    spool = await spools.open()
    seqs = [await spool.append(size_only(user, user_id=user)) for user in (USER, OTHER_USER)]

    waiting = await spool.waiting(EID)

    assert [(entry.seq, entry.user_id) for entry in waiting] == [
        (seqs[0], USER),
        (seqs[1], OTHER_USER),
    ]


async def test_size_only_writes_of_different_executions_do_not_merge(spools: Spools) -> None:
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


async def test_a_full_spool_refuses_ordinary_writes_and_takes_terminal_ones(
    spools: Spools,
) -> None:
    spools.limits = SpoolLimits(64 * 1024)
    spool = await spools.open()
    taken = await fill(spool)

    assert spool.is_full
    for urgency in (Urgency.STATUS, Urgency.URI, Urgency.REST):
        with pytest.raises(SpoolFull) as refusal:
            await spool.append(update(urgency=urgency, name="n"))
        assert refusal.value.headers["Retry-After"] == "5"
    await spool.append(update(urgency=Urgency.TERMINAL, status="COMPLETED"))

    assert spool.queues.entry_count == taken + 1


async def until_refused(spool: Spool) -> None:
    for execution_id in range(1000):
        await spool.append(update(execution_id, urgency=Urgency.TERMINAL, status="FAILED"))


async def test_even_terminal_writes_are_refused_above_the_whole_size(spools: Spools) -> None:
    spools.limits = SpoolLimits(16 * 1024)
    spool = await spools.open()
    await fill(spool)

    with pytest.raises(SpoolFull):
        await until_refused(spool)

    assert spool.queues.size_bytes <= spools.limits.max_bytes + 1024


async def test_a_drained_spool_takes_ordinary_writes_again(spools: Spools) -> None:
    spools.limits = SpoolLimits(64 * 1024)
    spool = await spools.open()
    await fill(spool)

    await settle(spool, await cut(spool))

    await spool.append(update(name="n"))
    assert not spool.is_full


# Damage


async def test_a_flipped_byte_is_set_aside_and_counted_and_the_rest_is_sent(
    spools: Spools,
) -> None:
    spool = await spools.open()
    seqs = [await spool.append(update(name=f"n{n}")) for n in range(3)]
    await spools.close()
    spools.flip(seqs[1])

    spool = await spools.open()
    batch = await cut(spool)

    assert numbers(batch) == [seqs[0], seqs[2]]
    assert spool.quarantined_count == 1
    assert spool.queues.entry_count == 2
    assert await spool.find(seqs[1]) is None
    kept = (spools.directory / "quarantine" / "entries.jsonl").read_text().splitlines()
    assert [msgspec.json.decode(line)[0] for line in kept] == [seqs[1]]


async def test_a_damaged_batch_is_not_sent_again_but_cut_anew_in_a_new_epoch(
    spools: Spools,
) -> None:
    spool = await spools.open()
    seqs = [await spool.append(update(name=f"n{n}")) for n in range(3)]
    batch = await cut(spool)
    await spools.close()
    spools.flip(seqs[1])

    spool = await spools.open()

    assert await spool.in_flight() is None
    again = await cut(spool)
    assert numbers(again) == [seqs[0], seqs[2]]
    assert (again.epoch != batch.epoch, again.number) == (True, 1)
    assert (spool.quarantined_count, spool.epochs_begun) == (1, 1)


async def test_garbage_does_not_stop_the_start_and_is_kept(spools: Spools) -> None:
    spool = await spools.open()
    epoch = await epoch_of(spool)
    await spools.close()
    file = spools.directory / FILE_NAME
    garbage = b"this was a database once\n" * 1000
    file.write_bytes(garbage)

    spool = await spools.open()

    (kept,) = (spools.directory / "quarantine").glob(f"*/{FILE_NAME}")
    assert kept.read_bytes() == garbage
    assert await epoch_of(spool) != epoch
    assert (spool.quarantined_count, spool.epochs_begun) == (1, 1)


async def test_what_can_be_read_of_a_damaged_file_is_saved(spools: Spools) -> None:
    spool = await spools.open()
    seqs = [await spool.append(update(name=f"n{n}")) for n in range(3)]
    name, epoch = spool.spool_id, (await cut(spool)).epoch
    await spools.close()
    spools.edit("DROP TABLE in_flight")

    spool = await spools.open()
    batch = await cut(spool)

    assert numbers(batch) == seqs
    assert batch.epoch != epoch
    assert (spool.spool_id, spool.quarantined_count) == (name, 0)
    assert await spool.append(update(name="n")) > seqs[-1]


def test_a_checksum_covers_number_and_document() -> None:
    known = checksum(1, EID, b"document")

    assert checksum(1, EID, b"document") == known
    assert checksum(2, EID, b"document") != known
    assert checksum(1, EID, b"documenu") != known


# Promises that are not kept yet; strict, so that the fix takes the mark away


def test_a_checksum_covers_the_execution() -> None:
    assert checksum(1, EID, b"document") != checksum(1, OTHER_EID, b"document")


async def test_a_replacement_appended_while_a_batch_is_cut_changes_nothing_in_the_batch(
    spools: Spools,
) -> None:
    spool = await spools.open()
    await spool.append(size_only(1))
    await spool.append(update(name="n"))

    batch, _ = await asyncio.gather(cut(spool), spool.append(size_only(2)))

    assert await spool.in_flight() == batch


async def test_a_replacement_appended_while_a_batch_is_cut_is_delivered_after_it(
    spools: Spools,
) -> None:
    spool = await spools.open()
    await spool.append(size_only(1))
    await spool.append(update(name="n"))

    batch, second = await asyncio.gather(cut(spool), spool.append(size_only(2)))
    if second not in numbers(batch):
        await settle(spool, batch)
        batch = await cut(spool)

    assert second in numbers(batch)


async def test_a_number_is_not_given_again_after_its_record_was_trimmed(
    spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "SETTLED_KEPT", 2)
    spool = await spools.open()
    for _ in range(3):
        await spool.append(update(name="n"))
    highest = await spool.append(update(OTHER_EID, urgency=Urgency.TERMINAL, status="FAILED"))
    await settle(spool, await cut(spool))

    spool = await spools.open()

    assert await spool.append(update(name="n")) > highest


async def test_the_number_of_an_entry_set_aside_is_not_given_again(spools: Spools) -> None:
    spool = await spools.open()
    await spool.append(update(name="n0"))
    damaged = await spool.append(update(name="n1"))
    await spools.close()
    spools.flip(damaged)

    spool = await spools.open()
    await cut(spool)

    assert await spool.append(update(name="n2")) > damaged


async def test_a_document_that_is_no_blob_is_set_aside(spools: Spools) -> None:
    spool = await spools.open()
    damaged = await spool.append(update(name="n0"))
    whole = await spool.append(update(name="n1"))
    await spools.close()
    spools.edit("UPDATE entries SET document = CAST(document AS TEXT) WHERE seq = ?", damaged)

    spool = await spools.open()

    assert numbers(await cut(spool)) == [whole]


async def test_a_burst_does_not_overfill_the_spool(spools: Spools) -> None:
    spools.limits = SpoolLimits(16 * 1024)
    spool = await spools.open()

    await asyncio.gather(
        *(spool.append(update(name="x" * 1000)) for _ in range(200)), return_exceptions=True
    )

    assert spool.queues.size_bytes <= spools.limits.max_bytes + 2048
