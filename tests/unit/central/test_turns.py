"""Turns: a caller's calls wait for the caller's own."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from central.auth.concurrency import PerCallerSemaphore
from central.metrics import Metrics
from central.problems import RateLimited


def turns(most: int, wait_s: float = 30.0) -> PerCallerSemaphore:
    return PerCallerSemaphore(most, Metrics(CollectorRegistry()), wait_s=wait_s)


async def test_of_one_caller_no_more_than_the_most_are_at_work() -> None:
    here = turns(2)
    first, _ = await here.take("a"), await here.take("a")

    third = asyncio.create_task(here.take("a"))
    others = await here.take("b")
    assert not third.done()
    first()
    await third

    others()
    assert list(here._lanes) == ["a"]


async def test_who_waits_too_long_is_told_to_ask_for_less() -> None:
    here = turns(1, wait_s=0.01)
    end = await here.take("a")

    with pytest.raises(RateLimited):
        await here.take("a")
    end()

    assert not here._lanes


async def test_a_caller_who_leaves_while_waiting_takes_no_turn() -> None:
    here = turns(1)
    end = await here.take("a")
    waiting = asyncio.create_task(here.take("a"))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    end()
    (await here.take("a"))()

    assert not here._lanes


async def test_no_limit_is_a_setting() -> None:
    here = turns(0)

    for _ in range(100):
        await here.take("a")

    assert not here._lanes
