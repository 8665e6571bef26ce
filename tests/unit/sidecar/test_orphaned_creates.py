"""Orphaned creates of an earlier process, and the boot that outlives it."""

import asyncio

import pytest

from sidecar.leases.orphaned_creates import GRACE_S, OrphanedCreates
from sidecar.spool.bindings import Boot
from sidecar.spool.schema import FILE_NAME
from sidecar.spool.spool import Spool
from tests.unit.sidecar.lease_fixtures import REFUSED, UNREACHABLE, FakeLeaseCentral, bind
from tests.unit.sidecar.spool_fixtures import Spools


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.waits_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits_s.append(seconds)
        self.now_s += seconds


def orphaned_creates(spool: Spool, central: FakeLeaseCentral, clock: Clock) -> OrphanedCreates:
    return OrphanedCreates(spool, central, monotonic=lambda: clock.now_s, sleep=clock.sleep)


async def test_a_bound_execution_unknown_to_the_spool_is_closed(spools: Spools) -> None:
    spool, central, clock = await spools.open(), FakeLeaseCentral(open=[5, 7, 9]), Clock()
    await bind(spool, 7)

    closed = await orphaned_creates(spool, central, clock).close()

    assert (closed, central.abandoned) == ([5, 9], [5, 9])
    assert central.ages_s == [GRACE_S]  # excludes what this process has created


async def test_a_create_repeated_within_the_grace_period_is_kept(
    spools: Spools,
) -> None:
    spool, central = await spools.open(), FakeLeaseCentral(open=[5])

    async def sleep(seconds: float) -> None:
        await bind(spool, 5)

    assert await OrphanedCreates(spool, central, sleep=sleep).close() == []

    assert central.abandoned == []


async def test_closing_orphans_is_retried_until_central_answers(spools: Spools) -> None:
    spool, clock = await spools.open(), Clock()
    central = FakeLeaseCentral(open=[5], script=[UNREACHABLE, REFUSED, *[UNREACHABLE] * 10])

    await orphaned_creates(spool, central, clock).close()

    assert central.abandoned == [5]
    assert len(clock.waits_s) == 13
    assert central.ages_s[-1] == clock.now_s - 1000.0


async def test_the_boot_outlives_restarts_and_corruption(spools: Spools) -> None:
    spool = await spools.open()
    before = spool.bindings.boot
    await spool.bindings.end([], boot=Boot(2, "first"))
    await spool.bindings.end([], boot=Boot(2, "second boot, with spaces"))

    reopened = await spools.open()
    kept = reopened.bindings.boot
    await spools.close()
    spools.edit("DROP TABLE in_flight")
    recovered = await spools.open()

    assert before is None
    assert kept == recovered.bindings.boot == Boot(2, "second boot, with spaces")
    assert recovered.epochs_started == 1
    assert (spools.directory / FILE_NAME).exists()


async def test_runs_closed_by_a_boot_have_ended_bindings(spools: Spools) -> None:
    spool = await spools.open()
    await bind(spool, 5, 7)

    await spool.bindings.end([5], boot=Boot(2, "new"))

    for known in (spool, await spools.open()):
        ended = {b.execution_id for b in known.bindings.all() if b.ended_at_ms is not None}
        assert ended == {5}


@pytest.mark.parametrize("boot", [None, Boot(2, "new")])
async def test_an_end_that_was_learned_before_a_new_binding_leaves_it_open(
    spools: Spools, boot: Boot | None
) -> None:
    """Both wait for the same commit: the index in memory does not know the newer one yet."""
    spool = await spools.open()
    await bind(spool, 5, 7)

    await asyncio.gather(bind(spool, 7), spool.bindings.end([5, 7], boot=boot))

    for known in (spool, await spools.open()):
        ended = {b.execution_id for b in known.bindings.all() if b.ended_at_ms is not None}
        assert ended == {5}
