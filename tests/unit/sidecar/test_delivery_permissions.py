"""The effect of settlements on cached grants."""

import asyncio

import pytest

from sidecar.spool.bindings import Binding, Grant
from sidecar.spool.entry import Priority
from sidecar.spool.spool import Spool
from tests.unit.sidecar.delivery_fixtures import DeliveryHarness, Response, applied, refused
from tests.unit.sidecar.spool_fixtures import EID, USER, Spools, cut, update

TOKEN_DIGEST = b"d" * 32


async def cache_grant(spool: Spool, execution_id: int = EID) -> None:
    binding = Binding(execution_id, 1, 2, USER, None, created_here=True)
    await spool.bindings.record(binding, Grant(TOKEN_DIGEST, execution_id, USER, 2_000))


def is_granted(spool: Spool) -> bool:
    return spool.bindings.grant(TOKEN_DIGEST, EID) is not None


@pytest.mark.parametrize(
    "slug", ["binding-revoked", "not-bound", "user-demoted", "execution-not-found"]
)
async def test_a_refusal_for_a_withdrawn_permission_drops_the_cached_grant(
    harness: DeliveryHarness, spools: Spools, slug: str
) -> None:
    await cache_grant(harness.spool)
    await harness.spool.append(update(name="n"))
    harness.central.script = [refused(slug)]

    await harness.deliver_all()

    assert not is_granted(harness.spool)
    reopened = await spools.open()
    assert not is_granted(reopened)
    assert reopened.bindings.binding(EID) is None


@pytest.mark.parametrize(
    ("priority", "response", "is_over"),
    [
        (Priority.TERMINAL, applied, True),
        (Priority.TERMINAL, refused("status-conflict"), True),
        (Priority.STATUS, applied, False),
        # Closed as an orphan, and perhaps still running: its own terminal status must be accepted.
        (Priority.STATUS, refused("late"), False),
        (Priority.TERMINAL, refused("uri-mismatch"), False),
    ],
)
async def test_grants_outlive_the_end_of_their_run_by_ten_minutes(
    harness: DeliveryHarness, spools: Spools, priority: Priority, response: Response, is_over: bool
) -> None:
    await cache_grant(harness.spool)
    await harness.spool.append(update(priority=priority, status="COMPLETED"))
    harness.central.script = [response]
    await harness.deliver_all()
    spool = await spools.open()

    spools.now_s += 599
    await spool.bindings.purge()
    assert is_granted(spool)
    spools.now_s += 2
    await spool.bindings.purge()
    assert is_granted(spool) is not is_over


async def test_a_purge_keeps_a_binding_that_is_made_meanwhile(spools: Spools) -> None:
    spool = await spools.open()
    await cache_grant(spool)
    await spool.bindings.end([EID])
    spools.now_s += 601

    binding = asyncio.create_task(cache_grant(spool))
    await asyncio.sleep(0)  # it is on its way to the file
    await spool.bindings.purge()
    await binding

    assert is_granted(spool)
    assert spool.bindings.binding(EID) is not None
    assert is_granted(await spools.open())


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_refusal_from_before_a_new_binding_keeps_that_binding(
    harness: DeliveryHarness, spools: Spools, is_restarted: bool
) -> None:
    """Central judged the batch, bound the execution again, and then its first response arrived."""
    await cache_grant(harness.spool)
    await harness.spool.append(update(name="n"))
    batch = await cut(harness.spool)
    await cache_grant(harness.spool)
    spool = await spools.open() if is_restarted else harness.spool

    await spool.settle(batch, refused("binding-revoked")(batch), lambda records: None)

    assert is_granted(spool)
    reopened = await spools.open()
    assert is_granted(reopened)
    await reopened.append(update(name="n"))
    newer = await cut(reopened)
    await reopened.settle(newer, refused("binding-revoked")(newer), lambda records: None)
    assert not is_granted(reopened)


async def test_a_refusal_from_before_a_binding_was_forgotten_and_renewed_keeps_the_new_one(
    harness: DeliveryHarness, spools: Spools
) -> None:
    spool = harness.spool
    for _ in range(3):
        await cache_grant(spool)
    await spool.append(update(name="n"))
    batch = await cut(spool)
    await spool.bindings.end([EID])
    spools.now_s += 601
    await spool.bindings.purge()
    assert not is_granted(spool)
    await cache_grant(spool)

    await spool.settle(batch, refused("not-bound")(batch), lambda records: None)

    assert is_granted(spool)
