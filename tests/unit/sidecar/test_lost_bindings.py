"""A spool that has lost bindings: no run is taken for an orphaned create until all are known."""

import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.leases.orphaned_creates import OrphanedCreates
from sidecar.leases.renewer import UNCLAIMED_S
from sidecar.lifecycle import build_sidecar
from sidecar.settings import Settings
from sidecar.spool import schema
from sidecar.spool.inspect import skip_write
from sidecar.spool.spool import Spool
from tests.unit.sidecar.lease_fixtures import UNREACHABLE, FakeLeaseCentral, RenewerRig, bind
from tests.unit.sidecar.spool_fixtures import Spools, cut, update


async def no_wait(seconds: float) -> None:
    pass


async def closed_as_orphaned(spool: Spool, *open_at_central: int) -> list[int]:
    central = FakeLeaseCentral(open=list(open_at_central))
    await OrphanedCreates(spool, central, sleep=no_wait).close()
    return central.abandoned


async def lose_bindings(spools: Spools, *execution_ids: int) -> None:
    """A stopped spool that had these, and whose page of bindings is overwritten."""
    await bind(await spools.open(), *execution_ids)
    await spools.close()
    file = spools.directory / schema.FILE_NAME
    with closing(sqlite3.connect(file)) as connection:
        query = "SELECT rootpage FROM sqlite_schema WHERE name = 'bindings'"
        (page,) = connection.execute(query).fetchone()
    with file.open("r+b") as opened:
        opened.seek((page - 1) * schema.PAGE_BYTES)
        opened.write(b"\xff" * schema.PAGE_BYTES)


async def test_no_start_after_the_recovery_closes_a_run(spools: Spools) -> None:
    await lose_bindings(spools, 7)

    closed = [await closed_as_orphaned(await spools.open(), 7) for _ in range(3)]

    assert closed == [[], [], []]


async def test_a_recovery_by_the_command_is_no_secret_to_the_next_start(spools: Spools) -> None:
    await lose_bindings(spools, 7)
    skip_write(spools.directory, "1")

    assert await closed_as_orphaned(await spools.open(), 7) == []


async def test_a_damaged_batch_tells_the_next_start_too(spools: Spools) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="x"))
    await cut(spool)
    await spools.close()
    spools.flip(seq)
    await (await spools.open()).abandon_batch()

    assert await closed_as_orphaned(await spools.open(), 7) == []


async def test_a_binding_of_a_changed_type_tells_too(spools: Spools) -> None:
    await bind(await spools.open(), 7)
    await spools.close()
    spools.edit("UPDATE bindings SET workflow_id = 'x'")

    assert await closed_as_orphaned(await spools.open(), 7) == []
    assert await closed_as_orphaned(await spools.open(), 7) == []


async def test_a_file_that_was_deleted_at_work_tells_too(spools: Spools) -> None:
    spool = await spools.open()
    await bind(spool, 7)
    (spools.directory / schema.FILE_NAME).unlink()
    (spools.directory / (schema.FILE_NAME + schema.WAL_SUFFIX)).unlink()
    with pytest.raises(Exception, match=r"replaced|No such file"):
        await spool.append(update(name="x"))
    await spool.append(update(name="x"))

    assert spool.bindings.binding(7) is None
    assert await closed_as_orphaned(spool, 7) == []


async def test_a_volume_that_cannot_be_used_yet_closes_no_run(spools: Spools) -> None:
    await bind(await spools.open(), 7)
    await spools.close()
    file = spools.directory / schema.FILE_NAME
    file.rename(spools.directory / "elsewhere")
    file.mkdir()

    assert await closed_as_orphaned(await spools.open(), 7) == []


async def test_a_loss_within_the_grace_period_closes_no_run(spools: Spools) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="x"))
    await cut(spool)
    await spools.close()
    spools.flip(seq)
    spool, central = await spools.open(), FakeLeaseCentral(open=[7])

    async def lose(seconds: float) -> None:
        await spool.abandon_batch()

    await OrphanedCreates(spool, central, sleep=lose).close()

    assert central.abandoned == []


async def test_a_fresh_spool_under_an_old_key_is_remembered(tmp_path: Path) -> None:
    settings = Settings.from_environment(
        {"SIDECAR_CENTRAL_URL": "http://127.0.0.1:9", "SIDECAR_SPOOL_DIR": str(tmp_path)}
    )
    closed = []
    for start in range(4):
        if start == 1:
            (tmp_path / schema.FILE_NAME).unlink()
        async with build_sidecar(settings) as sidecar:
            closed.append(await closed_as_orphaned(sidecar.spool, 7))

    assert closed == [[7], [], [], []]


async def test_once_all_lost_bindings_are_known_or_ended_orphans_are_closed(spools: Spools) -> None:
    await lose_bindings(spools, 5, 6, 7)
    rig = RenewerRig(await spools.open())
    renewer = rig.renewer()
    rig.spool.bindings.on_bound = renewer.on_bound
    rig.central.open = [5, 6, 7]
    is_complete = []

    await renewer.renew()
    is_complete.append(rig.spool.bindings.is_complete)
    await bind(rig.spool, 5)  # its next write
    await renewer.renew()
    is_complete.append(rig.spool.bindings.is_complete)
    rig.central.lost = {6: "ended", 7: "closed"}
    for _ in range(2):
        await renewer.renew()
    is_complete.append(rig.spool.bindings.is_complete)

    assert rig.central.renewed == [[5, 6, 7], [5, 6, 7], [5, 6, 7], [5]]
    assert is_complete == [False, False, True]
    assert await closed_as_orphaned(await spools.open(), 5, 9) == [9]


async def test_lost_bindings_are_asked_for_by_each_start_until_they_are_known(
    spools: Spools,
) -> None:
    await lose_bindings(spools, 7)
    for _ in range(2):
        rig = RenewerRig(await spools.open())
        await bind(rig.spool, 3)
        rig.central.open = [3, 7]
        rig.central.script = [UNREACHABLE]
        renewer = rig.renewer()

        for _ in range(3):
            await renewer.renew()

        assert rig.central.renewed == [[3, 7], [3, 7]]
        assert rig.central.ages_s == [0]


async def test_a_run_given_up_as_unit_gone_counts_as_ended_once_its_close_is_requested(
    spools: Spools,
) -> None:
    await lose_bindings(spools, 7)
    rig = RenewerRig(await spools.open())
    rig.central.open = [7]
    renewer = rig.renewer(fail_runs_on_restart=True)
    await renewer.renew()
    rig.unit.state = rig.unit.state.DOWN
    await renewer.renew()
    before = rig.spool.bindings.is_complete
    for _ in range(2):
        await renewer.renew()

    assert (before, rig.spool.bindings.is_complete) == (False, True)
    assert rig.central.abandoned == [7]


async def test_a_create_that_nobody_claims_keeps_no_spool_incomplete_for_ever(
    spools: Spools,
) -> None:
    """7 is an orphaned create from before the damage: nothing is ever written to it."""
    await lose_bindings(spools, 5)
    spools.now_s = time.time()  # recovery dates the damage by the machine's clock
    rig = RenewerRig(await spools.open())
    rig.central.open = [5, 7]
    renewer = rig.renewer()
    rig.spool.bindings.on_bound = renewer.on_bound
    await renewer.renew()
    await bind(rig.spool, 5)
    spools.now_s += UNCLAIMED_S - 60
    await renewer.renew()
    before = (renewer.held(), rig.spool.bindings.is_complete)

    spools.now_s += 120
    await renewer.renew()

    assert before == ([5, 7], False)
    assert (renewer.held(), rig.spool.bindings.is_complete) == ([5], True)
    assert rig.count("sidecar_lost_leases_total", reason="unclaimed") == 1
    assert rig.central.renewed[-1] == [5]
    assert await closed_as_orphaned(await spools.open(), 5, 7) == [7]


async def test_an_unclaimed_run_that_is_written_to_after_all_is_renewed_again(
    spools: Spools,
) -> None:
    await lose_bindings(spools, 7)
    spools.now_s = time.time() + UNCLAIMED_S + 60
    rig = RenewerRig(await spools.open())
    rig.central.open = [7]
    renewer = rig.renewer()
    rig.spool.bindings.on_bound = renewer.on_bound
    await renewer.renew()
    before = renewer.held()

    await bind(rig.spool, 7)  # what its next write does
    await renewer.renew()

    assert (before, renewer.held()) == ([], [7])
    assert rig.central.renewed == [[7]]
