"""Spools of other versions: an older one is upgraded in place, a newer one is set aside."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from sidecar.spool import schema, upgrades
from sidecar.spool.entry import WriteState
from tests.unit.sidecar.spooling import Spools, cut, numbers, settle, state_of, update

SAMPLE = Path(__file__).parents[2] / "contract" / "samples" / "spool-1.sql"


def of_format_1(directory: Path) -> None:
    """The file that a sidecar of format 1 wrote, from its dump."""
    directory.mkdir(parents=True)
    with closing(sqlite3.connect(directory / schema.FILE_NAME, isolation_level=None)) as file:
        file.execute("PRAGMA auto_vacuum = INCREMENTAL")
        file.execute("PRAGMA journal_mode = WAL")
        file.executescript(SAMPLE.read_text())


async def test_an_older_spool_is_upgraded_and_loses_nothing(spools: Spools) -> None:
    of_format_1(spools.directory)

    spool = await spools.open()

    assert (spool.spool_id, spool.epochs_started) == ("3ac90cc58233", 0)
    batch = await spool.in_flight()
    assert batch is not None
    assert (batch.number, numbers(batch)) == (2, [3, 4])
    assert batch.digest == "d96f0d33685067579e5e8deb16b060fce55ec948983f73822e2488867f810edb"
    assert await state_of(spool, 1) is WriteState.COMMITTED
    assert await state_of(spool, 2) is WriteState.REFUSED
    assert {await state_of(spool, seq) for seq in (5, 6, 7, 8)} == {WriteState.DURABLE}
    await settle(spool, batch)
    rest = await cut(spool)
    assert numbers(rest) == [7, 8]
    records = await settle(spool, rest)
    assert sorted(record.seq for record in records) == [5, 6, 7, 8]
    assert spool.bindings.binding(7) is not None
    assert spool.quarantined_count == 0


async def test_an_upgraded_spool_is_like_a_new_one(spools: Spools) -> None:
    of_format_1(spools.directory)
    await spools.open()
    await spools.close()

    with closing(sqlite3.connect(spools.directory / schema.FILE_NAME)) as file:
        assert schema.version_of(file) == schema.FORMAT_VERSION
        assert schema.shape(file) == schema.expected_shape()
    assert not (spools.directory / "quarantine").exists()


async def test_an_upgrade_that_fails_changes_nothing(
    spools: Spools, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_format_1(spools.directory)

    def half_done(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM entries")
        raise sqlite3.OperationalError("no more")

    monkeypatch.setattr(upgrades, "STEPS", {1: half_done})
    with closing(
        sqlite3.connect(spools.directory / schema.FILE_NAME, isolation_level=None)
    ) as file:
        with pytest.raises(sqlite3.OperationalError):
            upgrades.upgrade(file)

        assert schema.version_of(file) == 1
        assert file.execute("SELECT count(*) FROM entries").fetchone() == (4,)


def test_every_older_format_has_its_step() -> None:
    assert sorted(upgrades.STEPS) == list(range(1, schema.FORMAT_VERSION))


async def test_a_damaged_older_spool_is_carved_into_a_new_one(spools: Spools) -> None:
    of_format_1(spools.directory)
    spools.edit("DROP TABLE in_flight")

    spool = await spools.open()

    assert numbers(await cut(spool)) == [3, 7, 8, 4]
    assert spool.epochs_started == 1


async def test_a_newer_spool_is_set_aside_whole_and_what_can_be_verified_of_it_is_kept(
    spools: Spools,
) -> None:
    spool = await spools.open()
    seqs = [await spool.append(update(name=f"n{n}")) for n in range(3)]
    epoch = (await cut(spool)).epoch
    await spools.close()
    spools.edit(f"PRAGMA user_version = {schema.FORMAT_VERSION + 1}")
    spools.edit("ALTER TABLE settled ADD COLUMN something_new TEXT")
    newer = (spools.directory / schema.FILE_NAME).read_bytes()

    spool = await spools.open()

    (kept,) = (spools.directory / "quarantine").glob(f"*/{schema.FILE_NAME}")
    assert kept.read_bytes() == newer
    batch = await cut(spool)
    assert numbers(batch) == seqs
    assert batch.epoch != epoch
    assert msgspec.json.decode(batch.entries[0].document)["name"] == "n0"
    assert spool.epochs_started == 1
