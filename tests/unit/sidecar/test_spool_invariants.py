"""The check that the tests of damage rely on finds what is broken, and nothing else."""

import pytest

from tests.unit.sidecar.spool_fixtures import Spools
from tests.unit.sidecar.spool_invariants import findings_in
from tests.unit.sidecar.test_spool_tool import lively


async def test_running_spool_has_no_findings(spools: Spools) -> None:
    await lively(spools)

    assert findings_in(spools.directory) == []


@pytest.mark.parametrize(
    ("edit", "finding"),
    [
        ("UPDATE entries SET user_id = 9 WHERE seq = 5", "entry 5: the checksum does not match"),
        ("DELETE FROM entries WHERE seq = 3", "batch in flight is not what was cut"),
        ("UPDATE in_flight SET position = 7", "the batch in flight has gaps"),
        ("UPDATE meta SET value = 9 WHERE name = 'batch'", "meta: the checksum does not match"),
        ("UPDATE meta SET value = 'x' WHERE name = 'epoch'", "'x' is not an epoch"),
        ("UPDATE settled SET seq = 5 WHERE seq = 1", "number 5 is both in entries and in settled"),
        ("UPDATE settled SET state = 'committed'", "settled write 2: the checksum does not match"),
        ("UPDATE coalesced SET chain_id = 3", "coalesced write 4: its replacement does not wait"),
        ("UPDATE coalesced SET chain_id = 3", "coalesced write 4: the checksum does not match"),
        ("DROP INDEX coalesced_by_chain", "tables are not those of format"),
    ],
)
async def test_broken_invariant_is_found(spools: Spools, edit: str, finding: str) -> None:
    await lively(spools)
    await spools.close()
    spools.edit(edit)

    assert any(finding in found for found in findings_in(spools.directory))
