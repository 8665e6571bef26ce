"""A restart of the unit's master: which of its runs are given up, and which are not."""

import pytest

from sidecar.leases.health_check import UnitState
from sidecar.leases.renewer import LeaseRenewer
from sidecar.problems import UpstreamProblem
from tests.unit.sidecar.lease_fixtures import REFUSED, UNREACHABLE, RenewerRig, bind
from tests.unit.sidecar.spool_fixtures import Spools, update


@pytest.fixture
async def rig(spools: Spools) -> RenewerRig:
    return RenewerRig(await spools.open())


class StopRenewing(Exception):
    pass


def set_state_at(rig: RenewerRig, at_s: float, state: UnitState) -> None:
    async def change() -> None:
        rig.unit.state = state

    rig.events[at_s] = change


async def run_until(rig: RenewerRig, renewer: LeaseRenewer, at_s: float) -> None:
    async def stop() -> None:
        raise StopRenewing

    rig.events[at_s] = stop
    with pytest.raises(StopRenewing):
        await renewer.run()


async def test_runs_of_a_master_restarted_between_renewals_are_not_renewed(
    rig: RenewerRig,
) -> None:
    """It registers no boot. What the next master runs is renewed."""
    await bind(rig.spool, 7)
    set_state_at(rig, 45, UnitState.DOWN)
    set_state_at(rig, 52, UnitState.UP)

    async def create() -> None:
        await bind(rig.spool, 9)

    rig.events[60.0] = create
    renewer = rig.renewer(fail_runs_on_restart=True)

    await run_until(rig, renewer, 120)

    assert rig.central.renewed[:3] == [[7]] * 3
    assert set(map(tuple, rig.central.renewed[3:])) == {(9,)}
    assert (rig.central.abandoned, rig.central.reasons) == ([7], ["unit-gone"])
    assert renewer.describe()["lost"] == {"unit-gone": 1}
    assert rig.count("sidecar_lost_leases_total", reason="unit-gone") == 1
    assert rig.count("sidecar_computing_unit_up") == 1


@pytest.mark.parametrize("state", [UnitState.DOWN, UnitState.UNRESPONSIVE])
async def test_a_unit_that_was_unresponsive_or_registers_boots_is_renewed_again(
    rig: RenewerRig, state: UnitState
) -> None:
    await bind(rig.spool, 7)
    set_state_at(rig, 35, state)
    set_state_at(rig, 52, UnitState.UP)

    await run_until(rig, rig.renewer(fail_runs_on_restart=state is UnitState.UNRESPONSIVE), 90)

    assert len(rig.central.renewed) > 3
    assert set(map(tuple, rig.central.renewed)) == {(7,)}


async def test_a_write_revives_a_run_given_up_as_unit_gone(rig: RenewerRig) -> None:
    await bind(rig.spool, 1, 7)
    renewer = rig.renewer(fail_runs_on_restart=True)
    rig.spool.on_append.append(renewer.on_write)
    rig.unit.state = UnitState.DOWN
    await renewer.renew()
    rig.unit.state = UnitState.UP

    await rig.spool.append(update(execution_id=7, name="x"))
    await renewer.renew()
    await renewer.renew()

    assert rig.central.renewed == [[7]] * 2
    assert rig.central.abandoned == [1]


async def test_a_unit_that_is_down_is_checked_without_open_runs(
    rig: RenewerRig,
) -> None:
    await bind(rig.spool, 7)
    renewer = rig.renewer(fail_runs_on_restart=True)
    rig.unit.state = UnitState.DOWN
    await renewer.renew()
    rig.unit.state = UnitState.UP

    await renewer.renew()

    assert renewer.describe()["computing_unit_up"]


async def test_closing_is_retried_until_central_has_answered(rig: RenewerRig) -> None:
    await bind(rig.spool, 7)
    renewer = rig.renewer(fail_runs_on_restart=True)
    rig.unit.state = UnitState.DOWN
    await renewer.renew()
    rig.central.script = [UNREACHABLE, REFUSED]

    for _ in range(4):
        await renewer.renew()

    assert rig.central.abandoned == [7]


async def test_a_refused_reason_does_not_stop_the_other_renewals(rig: RenewerRig) -> None:
    await bind(rig.spool, 7)
    renewer = rig.renewer(fail_runs_on_restart=True)
    rig.unit.state = UnitState.DOWN
    await renewer.renew()
    rig.unit.state = UnitState.UP
    await bind(rig.spool, 9)
    rig.central.script = [
        UpstreamProblem({"type": "invalid-request", "status": 400, "detail": "reason"}, {})
    ]

    await renewer.renew()

    assert (rig.central.abandoned, rig.central.renewed) == ([], [[9]])
