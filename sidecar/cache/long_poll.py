"""Long polls: those who wait for something to appear at an execution.

Whoever waits is woken by the sidecar's own writes at once. What others write is learned by
one look-out per execution, however many wait: it asks central again after pauses that grow to
`POLL_MAX_S`, and ends with the last who waits.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from kit.http.problems import Problem

POLL_MIN_S = 0.25
POLL_BACKOFF = 1.5
POLL_MAX_S = 2.0
"""At most 35 calls in the longest wait of a minute; a result of another run's is 2 s late."""

Look = Callable[[], Awaitable[bool]]
"""Asks central anew; whether there is something that was not known before."""


@dataclass(slots=True, eq=False)
class _Waiter:
    arrived: asyncio.Event
    look: Look


@dataclass(slots=True)
class _Room:
    waiters: list[_Waiter] = field(default_factory=list)
    poll_task: "asyncio.Task[None] | None" = None


class LongPollHub:
    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._rooms: dict[int, _Room] = {}

    @contextmanager
    def waiting(self, execution_id: int, look: Look) -> Iterator[asyncio.Event]:
        """An event that is set when there may be news. Clear it before looking, then wait."""
        room = self._rooms.setdefault(execution_id, _Room())
        waiter = _Waiter(asyncio.Event(), look)
        room.waiters.append(waiter)
        if room.poll_task is None:
            room.poll_task = asyncio.ensure_future(self._look_out(execution_id, room))
        try:
            yield waiter.arrived
        finally:
            room.waiters.remove(waiter)
            if not room.waiters:
                room.poll_task.cancel()
                del self._rooms[execution_id]

    def notify(self, execution_id: int) -> None:
        """Something was written there."""
        room = self._rooms.get(execution_id)
        for waiter in room.waiters if room is not None else ():
            waiter.arrived.set()

    @property
    def waiter_count(self) -> int:
        return sum(len(room.waiters) for room in self._rooms.values())

    async def _look_out(self, execution_id: int, room: _Room) -> None:
        pause_s = POLL_MIN_S
        while True:
            await self._sleep(pause_s)
            pause_s = min(POLL_MAX_S, pause_s * POLL_BACKOFF)
            # Of a problem each caller hears from a look of its own, when its time is up.
            with suppress(Problem):
                # With the newest caller's token: an older one's may have expired meanwhile.
                if await room.waiters[-1].look():
                    self.notify(execution_id)
                    pause_s = POLL_MIN_S
