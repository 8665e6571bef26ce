"""Files of other formats: refused and left as they are; a damaged format number is damage."""

import pytest

from sidecar.spool import schema
from tests.unit.sidecar.spool_fixtures import Spools, cut, numbers, update


@pytest.mark.parametrize("version", [1, schema.FORMAT_VERSION + 1])
async def test_file_of_another_format_is_refused_and_left_unchanged(
    spools: Spools, version: int
) -> None:
    spool = await spools.open()
    await spool.append(update(name="n"))
    await spools.close()
    spools.edit(f"PRAGMA user_version = {version}")
    spools.edit("ALTER TABLE settled ADD COLUMN something_new TEXT")
    path = spools.directory / schema.FILE_NAME
    before = path.read_bytes()

    with pytest.raises(schema.UnknownFormat, match=f"has format {version}, this sidecar reads"):
        await spools.open()

    assert path.read_bytes() == before
    assert not (spools.directory / "quarantine").exists()


async def test_damaged_format_number_does_not_stop_the_start_and_loses_nothing(
    spools: Spools,
) -> None:
    spool = await spools.open()
    seqs = [await spool.append(update(name=f"n{n}")) for n in range(3)]
    await spools.close()
    spools.edit("PRAGMA user_version = 99")

    spool = await spools.open()

    assert numbers(await cut(spool)) == seqs
    assert (spool.epochs_started, spool.quarantined_count) == (1, 0)
