"""Single flight: concurrent calls with one key are one call."""

import asyncio

import pytest

from sidecar.upstream.single_flight import SingleFlight


class Origin:
    """Returns once `may_return` is set, and counts its calls."""

    def __init__(self) -> None:
        self.call_count = 0
        self.error: Exception | None = None
        self.started = asyncio.Event()
        self.may_return = asyncio.Event()

    async def __call__(self) -> int:
        self.call_count += 1
        self.started.set()
        await self.may_return.wait()
        if self.error is not None:
            raise self.error
        return self.call_count


async def test_a_thousand_concurrent_misses_make_one_call() -> None:
    flights = SingleFlight[int]()
    origin = Origin()

    callers = [asyncio.create_task(flights.do("key", origin)) for _ in range(1000)]
    await origin.started.wait()
    origin.may_return.set()

    assert await asyncio.gather(*callers) == [1] * 1000
    assert origin.call_count == 1


async def test_different_keys_are_different_calls() -> None:
    flights = SingleFlight[int]()
    origin = Origin()
    origin.may_return.set()

    assert sorted(await asyncio.gather(*(flights.do(key, origin) for key in range(3)))) == [1, 2, 3]


async def test_a_finished_call_is_not_shared() -> None:
    flights = SingleFlight[int]()
    origin = Origin()
    origin.may_return.set()

    assert [await flights.do("key", origin) for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("leaving", [0, 1])
async def test_a_cancelled_caller_does_not_cancel_the_call_of_the_others(leaving: int) -> None:
    flights = SingleFlight[int]()
    origin = Origin()
    callers = [asyncio.create_task(flights.do("key", origin)) for _ in range(3)]
    await origin.started.wait()

    callers[leaving].cancel()
    with pytest.raises(asyncio.CancelledError):
        await callers.pop(leaving)
    origin.may_return.set()

    assert await asyncio.gather(*callers) == [1, 1]


async def test_a_caller_joins_a_call_whose_callers_were_all_cancelled() -> None:
    flights = SingleFlight[int]()
    origin = Origin()
    caller = asyncio.create_task(flights.do("key", origin))
    await origin.started.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller

    late = asyncio.create_task(flights.do("key", origin))
    origin.may_return.set()

    assert await late == 1


async def test_every_caller_gets_the_error_and_the_next_one_calls_again() -> None:
    flights = SingleFlight[int]()
    origin = Origin()
    origin.error = ValueError("no")
    origin.may_return.set()

    results = await asyncio.gather(
        *(flights.do("key", origin) for _ in range(3)), return_exceptions=True
    )
    origin.error = None

    assert [repr(result) for result in results] == [repr(ValueError("no"))] * 3
    assert origin.call_count == 1
    assert await flights.do("key", origin) == 2
