"""A master that goes and comes back: what its going says of its runs, and what it does not."""

import pytest

from sidecar.leases.health_check import UnitState
from sidecar.leases.renewer import LeaseRenewer
from sidecar.problems import UpstreamProblem
from tests.unit.sidecar.lease_fixtures import REFUSED, UNREACHABLE, Round, bind
from tests.unit.sidecar.spooling import Spools, update


@pytest.fixture
async def round_(spools: Spools) -> Round:
    return Round(await spools.open())


class Enough(Exception):
    """The test has seen what it wanted."""


def at(round_: Round, moment_s: float, life: UnitState) -> None:
    async def become() -> None:
        round_.unit.life = life

    round_.events[moment_s] = become


async def until(round_: Round, renewals: LeaseRenewer, moment_s: float) -> None:
    async def stop() -> None:
        raise Enough

    round_.events[moment_s] = stop
    with pytest.raises(Enough):
        await renewals.run()


async def test_the_runs_of_a_master_that_restarts_between_two_renewals_are_not_renewed_again(
    round_: Round,
) -> None:
    """It told no boot. What the next master runs is renewed."""
    await bind(round_.spool, 7)
    at(round_, 45, UnitState.DOWN)
    at(round_, 52, UnitState.ALIVE)

    async def create() -> None:
        await bind(round_.spool, 9)

    round_.events[60.0] = create
    renewals = round_.renewals(fail_runs_on_restart=True)

    await until(round_, renewals, 120)

    assert round_.central.renewed[:3] == [[7]] * 3
    assert set(map(tuple, round_.central.renewed[3:])) == {(9,)}
    assert (round_.central.abandoned, round_.central.reasons) == ([7], ["unit-gone"])
    assert renewals.describe()["lost"] == {"unit-gone": 1}
    assert round_.count("sidecar_lost_leases_total", reason="unit-gone") == 1
    assert round_.count("sidecar_computing_unit_up") == 1


@pytest.mark.parametrize("life", [UnitState.DOWN, UnitState.UNRESPONSIVE])
async def test_a_unit_that_may_have_been_busy_or_tells_its_boots_is_renewed_when_it_is_back(
    round_: Round, life: UnitState
) -> None:
    await bind(round_.spool, 7)
    at(round_, 35, life)
    at(round_, 52, UnitState.ALIVE)

    await until(round_, round_.renewals(fail_runs_on_restart=life is UnitState.UNRESPONSIVE), 90)

    assert len(round_.central.renewed) > 3
    assert set(map(tuple, round_.central.renewed)) == {(7,)}


async def test_a_run_that_its_unit_writes_to_is_alive_after_all(round_: Round) -> None:
    await bind(round_.spool, 1, 7)
    renewals = round_.renewals(fail_runs_on_restart=True)
    round_.spool.on_append.append(renewals.on_write)
    round_.unit.life = UnitState.DOWN
    await renewals.renew()
    round_.unit.life = UnitState.ALIVE

    await round_.spool.append(update(execution_id=7, name="x"))
    await renewals.renew()
    await renewals.renew()

    assert round_.central.renewed == [[7]] * 2
    assert round_.central.abandoned == [1]


async def test_a_unit_that_is_gone_is_seen_to_come_back_although_nothing_runs(
    round_: Round,
) -> None:
    await bind(round_.spool, 7)
    renewals = round_.renewals(fail_runs_on_restart=True)
    round_.unit.life = UnitState.DOWN
    await renewals.renew()
    round_.unit.life = UnitState.ALIVE

    await renewals.renew()

    assert renewals.describe()["computing_unit_alive"]


async def test_central_is_told_of_it_until_it_has_answered(round_: Round) -> None:
    await bind(round_.spool, 7)
    renewals = round_.renewals(fail_runs_on_restart=True)
    round_.unit.life = UnitState.DOWN
    await renewals.renew()
    round_.central.script = [UNREACHABLE, REFUSED]

    for _ in range(4):
        await renewals.renew()

    assert round_.central.abandoned == [7]


async def test_a_central_that_does_not_know_the_reason_lets_them_lapse(round_: Round) -> None:
    """And all other leases are renewed."""
    await bind(round_.spool, 7)
    renewals = round_.renewals(fail_runs_on_restart=True)
    round_.unit.life = UnitState.DOWN
    await renewals.renew()
    round_.unit.life = UnitState.ALIVE
    await bind(round_.spool, 9)
    round_.central.script = [
        UpstreamProblem({"type": "invalid-request", "status": 400, "detail": "reason"}, {})
    ]

    await renewals.renew()

    assert (round_.central.abandoned, round_.central.renewed) == ([], [[9]])
