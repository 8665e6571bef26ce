"""Renewals: everything that is open, in one call, while the unit is alive."""

import asyncio
import random
from collections import Counter

import pytest

from sidecar.leases.health_check import UnitState
from sidecar.leases.renewer import BACKOFF_LIMIT_S, LeaseRenewer
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable
from tests.unit.sidecar.lease_fixtures import (
    PERIOD_S,
    REFUSED,
    UNREACHABLE,
    LeasingCentral,
    Round,
    bind,
)
from tests.unit.sidecar.spooling import Spools, cut, update


@pytest.fixture
async def round_(spools: Spools) -> Round:
    return Round(await spools.open())


async def test_all_that_is_open_is_renewed_in_one_call(round_: Round) -> None:
    await bind(round_.spool, 7, 3, 5)
    await bind(round_.spool, 4, ended_at_ms=1)

    wait_s = await round_.renewals().renew()

    assert round_.central.renewed == [[3, 5, 7]]
    assert wait_s == PERIOD_S
    assert round_.count("sidecar_lease_renewals_total", outcome="renewed") == 1


async def test_with_nothing_open_nobody_is_asked(round_: Round) -> None:
    assert await round_.renewals().renew() <= PERIOD_S

    assert (round_.central.renewed, round_.unit.looks) == ([], 0)


@pytest.mark.parametrize("lease_s", [8.0, 20.0, 90.0])
async def test_a_first_run_after_idleness_is_renewed_before_its_lease_lapses(
    round_: Round, lease_s: float
) -> None:
    """However long the period that was set: central's lease is not known before the first call."""
    round_.period_s = 600.0
    round_.central.lease_s = lease_s
    renewals = round_.renewals()

    first_wait_s = await renewals.renew()
    await bind(round_.spool, 7)  # just after nothing was found to renew
    await renewals.renew()
    await bind(round_.spool, 7, ended_at_ms=1)
    later_wait_s = await renewals.renew()

    assert round_.central.renewed == [[7]]
    assert max(first_wait_s, later_wait_s) < lease_s
    assert later_wait_s == lease_s / 4


async def test_the_age_of_renewals_that_never_came_is_told_too(round_: Round) -> None:
    """Else nobody is warned of a sidecar that has not reached central since its start."""
    await bind(round_.spool, 7)
    renewals = round_.renewals()
    round_.central.script = [UNREACHABLE]
    await renewals.renew()
    round_.now_s += 60

    assert renewals.age_s() == 60


async def test_a_dead_unit_gets_no_renewal_and_is_looked_at_more_often(round_: Round) -> None:
    await bind(round_.spool, 7)
    renewals = round_.renewals()
    await renewals.renew()
    round_.central.renewed.clear()
    round_.unit.life = UnitState.UNRESPONSIVE

    dead_wait_s = await renewals.renew()
    dead = (list(round_.central.renewed), renewals.describe()["computing_unit_alive"])
    up_while_dead = round_.count("sidecar_computing_unit_up")
    round_.unit.life = UnitState.ALIVE
    await renewals.renew()

    assert (dead, dead_wait_s, up_while_dead) == (([], False), PERIOD_S / 4, 0)
    assert round_.central.renewed == [[7]]
    assert round_.count("sidecar_computing_unit_up") == 1
    assert round_.count("sidecar_lease_renewals_total", outcome="unit-down") == 1


@pytest.mark.parametrize("reason", ["closed", "ended", "bound-elsewhere", "of a newer central"])
async def test_a_lost_lease_is_shown_and_not_asked_for_again_until_it_is_bound_anew(
    round_: Round, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    await bind(round_.spool, 3, 7)
    renewals = round_.renewals()
    round_.spool.on_bound = renewals.on_bound
    round_.central.lost = {7: reason}
    with caplog.at_level("INFO"):
        await renewals.renew()
    await renewals.renew()
    shown = renewals.describe()
    round_.central.lost = {}
    await bind(round_.spool, 7)
    await renewals.renew()

    assert round_.central.renewed == [[3, 7], [3], [3, 7]]
    assert (shown["held"], shown["lost"]) == (1, {reason: 1})
    (record,) = [r for r in caplog.records if r.getMessage() == "lease lost"]
    assert record.__dict__["fields"] == {"execution_id": 7, "reason": reason}
    assert record.levelname == ("INFO" if reason == "ended" else "WARNING")
    label = reason if "newer" not in reason else "other"
    assert round_.count("sidecar_lost_leases_total", reason=label) == 1


async def test_failures_back_off_and_a_success_ends_that(round_: Round) -> None:
    await bind(round_.spool, 7)
    renewals = round_.renewals()
    busy = CentralUnavailable("503", retry_after_s=2, has_retry_after=True)
    round_.central.script = [UNREACHABLE, UNREACHABLE, busy, REFUSED, *[UNREACHABLE] * 8]

    waits_s = [await renewals.renew() for _ in range(13)]

    assert waits_s[:5] == [1, 2, 4 + 2, 8, BACKOFF_LIMIT_S]
    assert max(waits_s[:-1]) == BACKOFF_LIMIT_S
    assert waits_s[-1] == PERIOD_S
    assert round_.central.renewed == [[7]]
    assert round_.count("sidecar_lease_renewals_total", outcome="refused") == 1


async def test_a_short_lease_is_renewed_more_often_than_was_set(round_: Round) -> None:
    await bind(round_.spool, 7)
    renewals = round_.renewals()
    round_.central.lease_s = 6.0

    wait_s = await renewals.renew()
    round_.central.script = [UNREACHABLE] * 5
    waits_s = [await renewals.renew() for _ in range(5)]

    assert wait_s == 1.5
    assert max(waits_s) == 1.0


async def test_a_renewal_that_hangs_is_given_up_while_the_lease_still_lives(
    round_: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that died silently, and a call's own timeout set high."""
    await bind(round_.spool, 7)
    round_.central.lease_s = 0.3
    renewals = round_.renewals()
    await renewals.renew()

    async def hang(_: object) -> None:
        await asyncio.get_running_loop().create_future()

    with monkeypatch.context() as hanging:
        hanging.setattr(round_.central, "renew_leases", hang)
        async with asyncio.timeout(20):
            wait_s = await renewals.renew()
    await renewals.renew()

    assert wait_s <= 1
    assert round_.central.renewed == [[7], [7]]
    assert round_.count("sidecar_lease_renewals_total", outcome="unavailable") == 1


async def test_what_a_spool_has_forgotten_is_renewed_all_the_same(round_: Round) -> None:
    await bind(round_.spool, 7)
    round_.central.open = [5, 7]
    round_.central.script = [UNREACHABLE]
    renewals = round_.renewals(bindings_lost=True)

    for _ in range(3):
        await renewals.renew()

    assert round_.central.renewed == [[5, 7], [5, 7]]
    assert round_.central.ages_s == [0]


async def test_damage_met_at_work_makes_it_ask_central_what_is_open(spools: Spools) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="x"))
    await bind(spool, 7)
    await cut(spool)
    await spools.close()
    spools.flip(seq)
    round_ = Round(await spools.open())
    round_.central.open = [6, 7]
    renewals = round_.renewals()
    await renewals.renew()
    await round_.spool.in_flight()  # the batch that cannot be sent again

    await renewals.renew()

    assert round_.central.renewed == [[7], [6, 7]]


async def test_a_create_that_was_never_heard_of_is_left_to_lapse_in_a_new_epoch_too(
    round_: Round,
) -> None:
    """Central bound it and the answer was lost: nobody runs it. The database lost its cursors."""
    await bind(round_.spool, 7)
    round_.central.open = [6, 7]
    renewals = round_.renewals()
    await renewals.renew()
    await round_.spool.start_epoch()

    await renewals.renew()

    assert round_.central.renewed == [[7], [7]]


async def test_the_age_of_the_last_renewal_is_told(round_: Round) -> None:
    await bind(round_.spool, 7)
    renewals = round_.renewals()
    await renewals.renew()
    round_.now_s += 30
    before = renewals.age_s()
    await renewals.renew()

    assert (before, renewals.age_s()) == (30, 0)


async def test_a_fleet_comes_back_from_an_outage_spread_over_seconds(round_: Round) -> None:
    """500 sidecars, an outage of five minutes: nobody storms, everybody is back in time."""
    await bind(round_.spool, 7)
    outage_ends_at, sidecar_count = 300.0, 500
    returned_at = []
    for number in range(sidecar_count):
        dice = random.Random(number)
        central = LeasingCentral()
        renewals = LeaseRenewer(
            round_.spool,
            central,
            round_.unit,
            Metrics(),
            period_s=PERIOD_S,
            monotonic=lambda: 0.0,
            uniform=dice.uniform,
        )
        now_s = dice.uniform(0, PERIOD_S)  # the moment of its first failure
        while now_s < outage_ends_at:
            central.script = [UNREACHABLE]
            now_s += await renewals.renew()
        central.script = []
        await renewals.renew()
        assert central.renewed == [[7]]
        returned_at.append(now_s - outage_ends_at)

    per_second = Counter(int(moment) for moment in returned_at)
    assert max(per_second.values()) < 0.25 * sidecar_count
    assert max(returned_at) <= BACKOFF_LIMIT_S
