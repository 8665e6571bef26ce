"""A key's concurrent calls are bounded; further ones are refused or wait, others are unaffected."""

import asyncio

import pytest

from kit.http.concurrency_limit import ConcurrencyLimiter


async def test_above_the_limit_a_call_waits_for_one_of_its_own_key() -> None:
    limiter = ConcurrencyLimiter(2)
    assert await limiter.acquire("a", 30.0)
    assert await limiter.acquire("a", 30.0)

    third = asyncio.create_task(limiter.acquire("a", 30.0))
    assert await limiter.acquire("b", 30.0)
    assert not third.done()
    limiter.release("a")
    assert await third

    limiter.release("b")
    assert len(limiter._active) == 1


async def test_waiting_calls_are_served_in_order_and_before_new_ones() -> None:
    limiter = ConcurrencyLimiter(1)
    await limiter.acquire("a", 30.0)
    first = asyncio.create_task(limiter.acquire("a", 30.0))
    second = asyncio.create_task(limiter.acquire("a", 30.0))
    await asyncio.sleep(0)

    limiter.release("a")
    assert not limiter.try_acquire("a")
    assert await first
    assert not second.done()
    limiter.release("a")
    assert await second


async def test_a_call_that_waits_too_long_gets_no_slot() -> None:
    limiter = ConcurrencyLimiter(1)
    await limiter.acquire("a", 30.0)

    assert not await limiter.acquire("a", 0.01)
    limiter.release("a")

    assert not limiter._active
    assert not limiter._waiting


@pytest.mark.parametrize("is_released_first", [False, True])
async def test_a_call_cancelled_while_waiting_holds_no_slot(is_released_first: bool) -> None:
    limiter = ConcurrencyLimiter(1)
    await limiter.acquire("a", 30.0)
    waiting = asyncio.create_task(limiter.acquire("a", 30.0))
    await asyncio.sleep(0)

    if is_released_first:
        limiter.release("a")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if not is_released_first:
        limiter.release("a")

    assert not limiter._active
    assert limiter.try_acquire("a")


async def test_zero_is_no_limit() -> None:
    limiter = ConcurrencyLimiter(0)

    assert all([await limiter.acquire("a", 0.0) for _ in range(100)])
    for _ in range(100):
        limiter.release("a")

    assert not limiter._active
