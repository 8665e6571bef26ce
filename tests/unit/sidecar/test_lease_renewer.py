"""Renewals: all open runs, in one call, while the unit is up."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from sidecar.leases.health_check import UnitState
from sidecar.leases.renewer import BACKOFF_LIMIT_S, RECHECK_LOST_S, LeaseRenewer
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable
from sidecar.spool.batches import BatchDamaged
from sidecar.wire.central import RenewedLeases
from tests.unit.sidecar.lease_fixtures import (
    PERIOD_S,
    REFUSED,
    UNREACHABLE,
    FakeLeaseCentral,
    RenewerRig,
    bind,
)
from tests.unit.sidecar.spool_fixtures import Spools, cut, update


@pytest.fixture
async def rig(spools: Spools) -> RenewerRig:
    return RenewerRig(await spools.open())


async def test_all_open_runs_are_renewed_in_one_call(rig: RenewerRig) -> None:
    await bind(rig.spool, 7, 3, 5)
    await bind(rig.spool, 4, ended_at_ms=1)

    wait_s = await rig.renewer().renew()

    assert rig.central.renewed == [[3, 5, 7]]
    assert wait_s == PERIOD_S
    assert rig.count("sidecar_lease_renewals_total", outcome="renewed") == 1


async def test_without_open_runs_nothing_is_called(rig: RenewerRig) -> None:
    assert await rig.renewer().renew() <= PERIOD_S

    assert (rig.central.renewed, rig.unit.check_count) == ([], 0)


@pytest.mark.parametrize("lease_s", [8.0, 20.0, 90.0])
async def test_a_first_run_after_idleness_is_renewed_before_its_lease_lapses(
    rig: RenewerRig, lease_s: float
) -> None:
    """Whatever the setting: central's lease length is not known before the first call."""
    rig.period_s = 600.0
    rig.central.lease_s = lease_s
    renewer = rig.renewer()

    first_wait_s = await renewer.renew()
    await bind(rig.spool, 7)  # just after a round without runs
    await renewer.renew()
    await bind(rig.spool, 7, ended_at_ms=1)
    later_wait_s = await renewer.renew()

    assert rig.central.renewed == [[7]]
    assert max(first_wait_s, later_wait_s) < lease_s
    assert later_wait_s == lease_s / 4


async def test_the_renewal_age_counts_from_the_start_if_none_succeeded(rig: RenewerRig) -> None:
    """Else no alert fires for a sidecar that has not reached central since its start."""
    await bind(rig.spool, 7)
    renewer = rig.renewer()
    rig.central.script = [UNREACHABLE]
    await renewer.renew()
    rig.now_s += 60

    assert renewer.age_s() == 60


async def test_a_unit_that_is_down_is_not_renewed_and_checked_more_often(rig: RenewerRig) -> None:
    await bind(rig.spool, 7)
    renewer = rig.renewer()
    await renewer.renew()
    rig.central.renewed.clear()
    rig.unit.state = UnitState.UNRESPONSIVE

    down_wait_s = await renewer.renew()
    while_down = (list(rig.central.renewed), renewer.describe()["computing_unit_up"])
    up_while_down = rig.count("sidecar_computing_unit_up")
    rig.unit.state = UnitState.UP
    await renewer.renew()

    assert (while_down, down_wait_s, up_while_down) == (([], False), PERIOD_S / 4, 0)
    assert rig.central.renewed == [[7]]
    assert rig.count("sidecar_computing_unit_up") == 1
    assert rig.count("sidecar_lease_renewals_total", outcome="unit-down") == 1


@pytest.mark.parametrize("reason", ["closed", "ended", "bound-elsewhere", "of a newer central"])
async def test_a_lost_lease_is_shown_and_not_renewed_until_bound_again(
    rig: RenewerRig, caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    await bind(rig.spool, 3, 7)
    renewer = rig.renewer()
    rig.spool.bindings.on_bound = renewer.on_bound
    rig.central.lost = {7: reason}
    with caplog.at_level("INFO"):
        await renewer.renew()
    await renewer.renew()
    shown = renewer.describe()
    rig.central.lost = {}
    await bind(rig.spool, 7)
    await renewer.renew()

    assert rig.central.renewed == [[3, 7], [3], [3, 7]]
    assert (shown["held"], shown["lost"]) == (1, {reason: 1})
    (record,) = [r for r in caplog.records if r.getMessage() == "lease lost"]
    assert record.__dict__["fields"] == {"execution_id": 7, "reason": reason}
    assert record.levelname == ("INFO" if reason == "ended" else "WARNING")
    label = reason if "newer" not in reason else "other"
    assert rig.count("sidecar_lost_leases_total", reason=label) == 1


@pytest.mark.parametrize(
    "reason", ["ended", "bound-elsewhere", "binding-revoked", "execution-not-found", "not-bound"]
)
async def test_a_binding_that_central_no_longer_has_is_forgotten_after_the_grace(
    rig: RenewerRig, spools: Spools, reason: str
) -> None:
    """Else a sidecar that lives for long would renew ever more runs that ended elsewhere."""
    await bind(rig.spool, 3, 7)
    rig.central.lost = {7: reason, 3: "closed"}
    await rig.renewer().renew()

    spool = await spools.open()
    rig.spool, rig.central.lost = spool, {}
    await rig.renewer().renew()
    known_in_grace = spool.bindings.binding(7)
    spools.now_s += 601
    await spool.bindings.purge()

    assert rig.central.renewed == [[3, 7], [3]]
    assert known_in_grace is not None
    assert spool.bindings.binding(7) is None
    # Closed provisionally: the run's own terminal status must be admitted whenever it comes.
    assert spool.bindings.binding(3) is not None


async def test_a_long_lived_sidecar_forgets_closed_runs_when_central_does(
    rig: RenewerRig, spools: Spools
) -> None:
    """And holds one again that was reopened; a run that is still closed counts once."""
    await bind(rig.spool, 3, 5, 7)
    rig.central.lost = dict.fromkeys((3, 5, 7), "closed")
    renewer = rig.renewer()
    await renewer.renew()
    await renewer.renew()

    rig.now_s += RECHECK_LOST_S
    rig.central.lost = {3: "not-bound", 5: "closed"}
    await renewer.renew()
    await renewer.renew()
    spools.now_s += 601
    await rig.spool.bindings.purge()

    assert rig.central.renewed == [[3, 5, 7], [3, 5, 7], [7]]
    assert {b.execution_id for b in rig.spool.bindings.all()} == {5, 7}
    assert rig.count("sidecar_lost_leases_total", reason="closed") == 3
    assert rig.count("sidecar_lost_leases_total", reason="not-bound") == 0


async def test_a_run_bound_while_its_renewal_is_in_the_air_is_held(rig: RenewerRig) -> None:
    """What the response says of it may be from before."""
    await bind(rig.spool, 3, 7)
    rig.central.lost = {3: "binding-revoked", 7: "binding-revoked"}
    renewer = rig.renewer()
    rig.spool.bindings.on_bound = renewer.on_bound
    renew_leases = rig.central.renew_leases

    async def bind_meanwhile(execution_ids: Sequence[int]) -> RenewedLeases:
        renewed = await renew_leases(execution_ids)
        await bind(rig.spool, 7)
        return renewed

    rig.central.renew_leases = bind_meanwhile  # type: ignore[method-assign]
    await renewer.renew()

    assert renewer.held() == [7]


async def test_failures_back_off_until_a_success(rig: RenewerRig) -> None:
    await bind(rig.spool, 7)
    renewer = rig.renewer()
    busy = CentralUnavailable("503", retry_after_s=2, has_retry_after=True)
    rig.central.script = [UNREACHABLE, UNREACHABLE, busy, REFUSED, *[UNREACHABLE] * 8]

    waits_s = [await renewer.renew() for _ in range(13)]

    assert waits_s[:5] == [1, 2, 4 + 2, 8, BACKOFF_LIMIT_S]
    assert max(waits_s[:-1]) == BACKOFF_LIMIT_S
    assert waits_s[-1] == PERIOD_S
    assert rig.central.renewed == [[7]]
    assert rig.count("sidecar_lease_renewals_total", outcome="refused") == 1


async def test_a_short_lease_is_renewed_more_often_than_the_setting(rig: RenewerRig) -> None:
    await bind(rig.spool, 7)
    renewer = rig.renewer()
    rig.central.lease_s = 6.0

    wait_s = await renewer.renew()
    rig.central.script = [UNREACHABLE] * 5
    waits_s = [await renewer.renew() for _ in range(5)]

    assert wait_s == 1.5
    assert max(waits_s) == 1.0


async def test_a_hung_renewal_times_out_before_the_lease_lapses(
    rig: RenewerRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silently dead connection, and a long timeout of other calls."""
    await bind(rig.spool, 7)
    rig.central.lease_s = 0.3
    renewer = rig.renewer()
    await renewer.renew()

    async def hang(_: object) -> None:
        await asyncio.get_running_loop().create_future()

    with monkeypatch.context() as hanging:
        hanging.setattr(rig.central, "renew_leases", hang)
        async with asyncio.timeout(20):
            wait_s = await renewer.renew()
    await renewer.renew()

    assert wait_s <= 1
    assert rig.central.renewed == [[7], [7]]
    assert rig.count("sidecar_lease_renewals_total", outcome="unavailable") == 1


async def test_corruption_found_at_work_recovers_bindings_from_central(spools: Spools) -> None:
    spool = await spools.open()
    seq = await spool.append(update(name="x"))
    await bind(spool, 7)
    await cut(spool)
    await spools.close()
    spools.flip(seq)
    rig = RenewerRig(await spools.open())
    rig.central.open = [6, 7]
    renewer = rig.renewer()
    await renewer.renew()
    with pytest.raises(BatchDamaged):
        await rig.spool.in_flight()
    await rig.spool.abandon_batch()

    await renewer.renew()

    assert rig.central.renewed == [[7], [6, 7]]


async def test_an_orphaned_create_lapses_in_a_new_epoch_too(
    rig: RenewerRig,
) -> None:
    """Central bound it and the response was lost: nobody runs it. The database lost its cursors."""
    await bind(rig.spool, 7)
    rig.central.open = [6, 7]
    renewer = rig.renewer()
    await renewer.renew()
    await rig.spool.start_epoch()

    await renewer.renew()

    assert rig.central.renewed == [[7], [7]]


async def test_a_renewal_resets_the_renewal_age(rig: RenewerRig) -> None:
    await bind(rig.spool, 7)
    renewer = rig.renewer()
    await renewer.renew()
    rig.now_s += 30
    before = renewer.age_s()
    await renewer.renew()

    assert (before, renewer.age_s()) == (30, 0)


async def test_a_fleet_returns_from_an_outage_spread_over_seconds(rig: RenewerRig) -> None:
    """500 sidecars, an outage of five minutes: no burst, and all return in time."""
    await bind(rig.spool, 7)
    outage_ends_at, sidecar_count = 300.0, 500
    returned_at = []
    for number in range(sidecar_count):
        rng = random.Random(number)
        central = FakeLeaseCentral()
        renewer = LeaseRenewer(
            rig.spool,
            central,
            rig.unit,
            Metrics(),
            period_s=PERIOD_S,
            monotonic=lambda: 0.0,
            uniform=rng.uniform,
        )
        now_s = rng.uniform(0, PERIOD_S)  # its first failure
        while now_s < outage_ends_at:
            central.script = [UNREACHABLE]
            now_s += await renewer.renew()
        central.script = []
        await renewer.renew()
        assert central.renewed == [[7]]
        returned_at.append(now_s - outage_ends_at)

    per_second = Counter(int(second) for second in returned_at)
    assert max(per_second.values()) < 0.25 * sidecar_count
    assert max(returned_at) <= BACKOFF_LIMIT_S
