"""What an answer of central's means for the right to write."""

import pytest

from sidecar.spool.bindings import Binding, Grant
from sidecar.spool.entry import Priority
from sidecar.spool.spool import Spool
from tests.unit.sidecar.delivering import Answer, Bench, applied, refused
from tests.unit.sidecar.spooling import EID, USER, Spools, update

TOKEN_DIGEST = b"d" * 32


async def cached_permit(spool: Spool, execution_id: int = EID) -> None:
    binding = Binding(execution_id, 1, 2, USER, None, created_here=True)
    await spool.record_binding(binding, Grant(TOKEN_DIGEST, execution_id, USER, 2_000))


def is_granted(spool: Spool) -> bool:
    return spool.bindings.grant(TOKEN_DIGEST, EID) is not None


@pytest.mark.parametrize(
    "slug", ["binding-revoked", "not-bound", "user-demoted", "execution-not-found"]
)
async def test_a_right_that_central_took_back_is_forgotten_for_good(
    bench: Bench, spools: Spools, slug: str
) -> None:
    await cached_permit(bench.spool)
    await bench.spool.append(update(name="n"))
    bench.central.script = [refused(slug)]

    await bench.deliver_all()

    assert not is_granted(bench.spool)
    reopened = await spools.open()
    assert not is_granted(reopened)
    assert reopened.bindings.binding(EID) is None


@pytest.mark.parametrize(
    ("priority", "answer", "is_over"),
    [
        (Priority.TERMINAL, applied, True),
        (Priority.TERMINAL, refused("status-conflict"), True),
        (Priority.STATUS, applied, False),
        # Closed as an orphan, and perhaps still running: its own end must be admitted.
        (Priority.STATUS, refused("late"), False),
        (Priority.TERMINAL, refused("uri-mismatch"), False),
    ],
)
async def test_grants_outlive_the_end_of_their_run_by_ten_minutes(
    bench: Bench, spools: Spools, priority: Priority, answer: Answer, is_over: bool
) -> None:
    await cached_permit(bench.spool)
    await bench.spool.append(update(priority=priority, status="COMPLETED"))
    bench.central.script = [answer]
    await bench.deliver_all()
    spool = await spools.open()

    spools.now_s += 599
    await spool.purge_bindings()
    assert is_granted(spool)
    spools.now_s += 2
    await spool.purge_bindings()
    assert is_granted(spool) is not is_over
