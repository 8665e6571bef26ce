"""Single flight: concurrent calls with one key are one call."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Joins concurrent calls by key. Every caller gets the result or the error of the one call.

    A caller that leaves does not cancel the call for the others; nothing is kept once the
    call has ended.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Task[T]] = {}

    async def do(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        flight = self._flights.get(key)
        if flight is None:
            flight = asyncio.ensure_future(_run(call))
            self._flights[key] = flight
            flight.add_done_callback(lambda done: self._on_done(key, done))
        return await asyncio.shield(flight)

    def _on_done(self, key: Hashable, flight: "asyncio.Task[T]") -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # every caller may have left: an unread error would be logged


async def _run(call: Callable[[], Awaitable[T]]) -> T:
    return await call()
