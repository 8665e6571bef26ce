"""Corrupted entries end as refused and are counted; no number is assigned twice."""

import asyncio
import os
import sqlite3
from contextlib import closing

import msgspec
import pytest

from sidecar.spool import batches
from sidecar.spool.batches import BatchDamaged
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.entry import (
    Outcome,
    Priority,
    WriteState,
    checksum,
)
from sidecar.spool.schema import FILE_NAME, PAGE_BYTES
from tests.unit.sidecar.damage_fixtures import LEAF_HEAD_BYTES
from tests.unit.sidecar.spool_fixtures import (
    EID,
    OTHER_EID,
    OTHER_USER,
    USER,
    Spools,
    cut,
    epoch_of,
    numbers,
    settle,
    size_only,
    state_of,
    update,
)


async def test_entry_with_a_flipped_byte_ends_refused_and_the_rest_is_sent(
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
    record = await spool.find(seqs[1])
    assert record is not None
    assert (record.state, (record.problem or {})["type"]) == (WriteState.REFUSED, "write-corrupted")
    kept = (spools.directory / "quarantine" / "entries.jsonl").read_text().splitlines()
    assert [msgspec.json.decode(line)[0] for line in kept] == [seqs[1]]


async def test_damaged_batch_is_cut_again_in_a_new_epoch(
    spools: Spools,
) -> None:
    spool = await spools.open()
    seqs = [await spool.append(update(name=f"n{n}")) for n in range(3)]
    batch = await cut(spool)
    await spools.close()
    spools.flip(seqs[1])

    spool = await spools.open()

    with pytest.raises(BatchDamaged):
        await spool.in_flight()
    with pytest.raises(BatchDamaged):
        await cut(spool)
    assert spool.epochs_started == 0
    await spool.abandon_batch()
    assert await spool.in_flight() is None
    again = await cut(spool)
    assert numbers(again) == [seqs[0], seqs[2]]
    assert (again.epoch != batch.epoch, again.number) == (True, 1)
    assert (spool.quarantined_count, spool.epochs_started) == (1, 1)


async def test_garbage_file_is_quarantined_and_does_not_stop_the_start(spools: Spools) -> None:
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
    assert (spool.quarantined_count, spool.epochs_started) == (1, 1)


async def test_readable_entries_of_a_damaged_file_are_kept_in_a_new_epoch(spools: Spools) -> None:
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


def test_checksum_covers_each_value() -> None:
    sealed = {
        checksum(1, EID, USER, "op", 0, b"document"),
        checksum(2, EID, USER, "op", 0, b"document"),
        checksum(1, OTHER_EID, USER, "op", 0, b"document"),
        checksum(1, EID, OTHER_USER, "op", 0, b"document"),
        checksum(1, EID, USER, "oq", 0, b"document"),
        checksum(1, EID, USER, "op", 1, b"document"),
        checksum(1, EID, USER, "op", 0, b"documenu"),
    }

    assert len(sealed) == 7


async def test_replacement_appended_during_a_cut_does_not_change_the_batch(
    spools: Spools,
) -> None:
    spool = await spools.open()
    await spool.append(size_only(1))
    await spool.append(update(name="n"))

    batch, _ = await asyncio.gather(cut(spool), spool.append(size_only(2)))

    assert await spool.in_flight() == batch


async def test_replacement_appended_during_a_cut_is_delivered_after_the_batch(
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


async def test_number_of_a_trimmed_record_is_not_assigned_again(
    spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "HISTORY_SIZE", 2)
    spool = await spools.open()
    for _ in range(3):
        await spool.append(update(name="n"))
    highest = await spool.append(update(OTHER_EID, priority=Priority.TERMINAL, status="FAILED"))
    await settle(spool, await cut(spool))

    spool = await spools.open()

    assert await spool.append(update(name="n")) > highest


async def test_number_of_a_corrupted_entry_is_not_assigned_again(spools: Spools) -> None:
    spool = await spools.open()
    await spool.append(update(name="n0"))
    damaged = await spool.append(update(name="n1"))
    await spools.close()
    spools.flip(damaged)

    spool = await spools.open()
    await cut(spool)

    assert await spool.append(update(name="n2")) > damaged


async def test_entry_with_a_payload_of_the_wrong_type_ends_refused(spools: Spools) -> None:
    spool = await spools.open()
    damaged = await spool.append(update(name="n0"))
    whole = await spool.append(update(name="n1"))
    await spools.close()
    spools.edit("UPDATE entries SET payload = CAST(payload AS TEXT) WHERE seq = ?", damaged)

    spool = await spools.open()

    assert numbers(await cut(spool)) == [whole]


async def test_burst_does_not_overfill_the_spool(spools: Spools) -> None:
    spools.limits = SpoolLimits(16 * 1024)
    spool = await spools.open()

    await asyncio.gather(
        *(spool.append(update(name="x" * 1000)) for _ in range(200)), return_exceptions=True
    )

    assert spool.queues.size_bytes <= spools.limits.max_bytes + 2048


async def test_entries_between_two_damaged_pages_are_kept_and_the_lost_are_counted(
    spools: Spools,
) -> None:
    spool = await spools.open()
    seqs = [await spool.append(update(name="x" * 300)) for _ in range(300)]
    await spools.close()
    file = spools.directory / FILE_NAME
    content = bytearray(file.read_bytes())
    page_of = {seq: content.index(b'{"seq":%d,' % seq) // PAGE_BYTES for seq in seqs}
    damaged = {page_of[seqs[100]], page_of[seqs[200]]}
    for page in damaged:
        content[page * PAGE_BYTES : page * PAGE_BYTES + 8] = b"\xff" * 8
    file.write_bytes(content)
    lost = [seq for seq in seqs if page_of[seq] in damaged]

    spool = await spools.open()

    assert len(damaged) == 2
    assert numbers(await cut(spool)) == [seq for seq in seqs if seq not in lost]
    assert (spool.quarantined_count, spool.epochs_started) == (len(lost), 1)


async def test_an_entry_that_its_page_does_not_point_to_is_counted(spools: Spools) -> None:
    """A scan of the table passes it by without an error."""
    spool = await spools.open()
    seqs = [await spool.append(update(name=f"n{n}")) for n in range(3)]
    await spools.close()
    file = spools.directory / FILE_NAME
    with closing(sqlite3.connect(file)) as connection:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'entries'"
        (page,) = connection.execute(query).fetchone()
    with file.open("r+b") as opened:
        opened.seek((page - 1) * PAGE_BYTES + LEAF_HEAD_BYTES)
        first_pointer = opened.read(2)
        opened.seek(0, os.SEEK_CUR)
        opened.write(first_pointer)  # over that of the second row

    spool = await spools.open()

    assert numbers(await cut(spool)) == [seqs[0], seqs[2]]
    assert spool.quarantined_count == 1


@pytest.mark.parametrize(
    "harm",
    [
        "DROP TABLE in_flight",
        "UPDATE meta SET value = 'x' WHERE name = 'epoch'",
        "PRAGMA user_version = 99",
    ],
)
async def test_a_deferred_write_survives_damage_after_later_writes_were_settled(
    spools: Spools, harm: str
) -> None:
    """Outcomes come out of order: that a later number is settled says nothing of an earlier one."""
    spool = await spools.open()
    deferred, settled = [await spool.append(update(execution_id=e)) for e in (EID, OTHER_EID)]
    await spool.settle(
        await cut(spool),
        [Outcome(deferred, "deferred"), Outcome(settled, "applied")],
        lambda records: None,
    )
    await spools.close()
    spools.edit(harm)

    spool = await spools.open()

    assert spool.epochs_started == 1
    assert numbers(await cut(spool)) == [deferred]
    assert await state_of(spool, settled) is WriteState.COMMITTED
    assert spool.quarantined_count == 0


async def test_a_damaged_schema_that_is_no_text_does_not_stop_the_start(spools: Spools) -> None:
    """SQLite quotes it in the message of its error."""
    spool = await spools.open()
    seq = await spool.append(update(name="n"))
    await spools.close()
    file = spools.directory / FILE_NAME
    content = file.read_bytes()
    page = content[:PAGE_BYTES]
    damaged = page.replace(b"tableentriesentries", b"table\xe6ntriesentries")
    damaged = damaged.replace(b"CREATE TABLE entries", b"CREATE \0ABLE entries")
    assert damaged.count(b"\xe6") == 1
    assert damaged != page
    file.write_bytes(damaged + content[PAGE_BYTES:])

    spool = await spools.open()

    assert numbers(await cut(spool)) == [seq]
    assert spool.epochs_started == 1
