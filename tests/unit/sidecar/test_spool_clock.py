"""A wall clock that is set, forward or back, dates no write wrongly and ends no right early."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from sidecar.spool.bindings import GRACE_AFTER_END_MS, Binding, Grant
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.entry import Entry, Outcome, Priority
from sidecar.spool.spool import Spool
from tests.unit.sidecar.spool_fixtures import EID, USER, cut, update

DAY_S = 86_400.0
JUMPS = pytest.mark.parametrize("jump_s", [-DAY_S, DAY_S], ids=["back", "forward"])
DIGEST = b"d" * 32


class Clocks:
    """The machine's, and the one that nobody can set."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: Spool | None = None
        self.wall_s = 1_700_000_000.0
        self.monotonic_s = 50.0

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds

    async def spool(self) -> Spool:
        """Opened anew; the one before is closed."""
        await self.close()
        self._open = spool = Spool(
            self._directory,
            SpoolLimits(2**26),
            wall_clock=lambda: self.wall_s,
            monotonic=lambda: self.monotonic_s,
        )
        await spool.open()
        return spool

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()
            self._open = None


@pytest.fixture
async def clocks(tmp_path: Path) -> AsyncIterator[Clocks]:
    async with AsyncExitStack() as stack:
        clocks = Clocks(tmp_path / "spool")
        stack.push_async_callback(clocks.close)
        yield clocks


def made_at_ms(entry: Entry) -> int:
    timestamp: int = msgspec.json.decode(entry.payload)["made_at_ms"]
    return timestamp


async def ended_run(spool: Spool) -> None:
    binding = Binding(EID, 1, 1, USER, None, created_here=True)
    await spool.bindings.record(binding, Grant(DIGEST, EID, USER, 2**40))
    seq = await spool.append(update(priority=Priority.TERMINAL, status="COMPLETED"))
    batch = await cut(spool)
    await spool.settle(batch, [Outcome(seq, "applied")], lambda records: None)


def is_admitted(spool: Spool) -> bool:
    return spool.bindings.grant(DIGEST, EID) is not None


@JUMPS
async def test_ages_of_writes_do_not_see_the_clock_being_set(clocks: Clocks, jump_s: float) -> None:
    spool = await clocks.spool()
    await spool.append(update(name="before"))
    clocks.passes(5)
    clocks.wall_s += jump_s
    await spool.append(update(name="after"))
    clocks.passes(2)

    ages = [spool.now_ms() - made_at_ms(entry) for entry in (await cut(spool)).entries]

    assert ages == [7_000, 2_000]


@JUMPS
async def test_writes_go_in_their_order_whatever_their_dates(clocks: Clocks, jump_s: float) -> None:
    """Between two lives of the sidecar nothing tells how much time has passed."""
    spool = await clocks.spool()
    seqs = [await spool.append(update(name="first"))]
    await clocks.close()
    clocks.wall_s += jump_s
    spool = await clocks.spool()
    seqs.append(await spool.append(update(name="second")))

    batch = await spool.cut()  # and neither waits until a time that is a day away

    assert batch is not None
    assert [entry.seq for entry in batch.entries] == seqs


@JUMPS
async def test_a_run_that_ended_is_writable_for_its_grace_whatever_is_done_to_the_clock(
    clocks: Clocks, jump_s: float
) -> None:
    spool = await clocks.spool()
    await ended_run(spool)
    clocks.wall_s += jump_s
    clocks.passes(GRACE_AFTER_END_MS / 1000 - 1)
    await spool.bindings.purge()
    assert is_admitted(spool)

    clocks.passes(2)
    await spool.bindings.purge()

    assert not is_admitted(spool)


async def test_a_clock_set_back_between_two_lives_keeps_nobody_admitted_for_ever(
    clocks: Clocks,
) -> None:
    spool = await clocks.spool()
    await ended_run(spool)
    await clocks.close()
    clocks.wall_s -= DAY_S
    spool = await clocks.spool()
    await spool.bindings.purge()
    assert is_admitted(spool)

    clocks.passes(GRACE_AFTER_END_MS / 1000 + 1)
    await spool.bindings.purge()

    assert not is_admitted(spool)
