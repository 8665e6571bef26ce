"""Concurrent calls by key: how many calls of one caller run at the same time.

Calls share scarce things: a few database connections, a few connections to central. A caller who
sends hundreds at once must not take them all. Above the limit a call is refused at once
(`try_acquire`) or waits for an earlier call of the same key (`acquire`), so a flood delays only
the caller that makes it.

Which of the two applies, for whom, and what the refusal says is the service's decision.
"""

import asyncio
from collections import deque
from collections.abc import Hashable


class ConcurrencyLimiter:
    """At most `max_calls` calls of one key hold a slot; 0 is no limit. Memory: the keys in use."""

    def __init__(self, max_calls: int) -> None:
        self._max_calls = max_calls
        self._active: dict[Hashable, int] = {}
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}
        """First in, first out, by key."""

    def try_acquire(self, key: Hashable) -> bool:
        """Takes a slot; False if all are taken."""
        active = self._active.get(key, 0)
        if self._max_calls and active >= self._max_calls:
            return False
        self._active[key] = active + 1
        return True

    async def acquire(self, key: Hashable, max_wait_s: float) -> bool:
        """Takes a slot, waiting for one if need be; False if none was free in time."""
        if self.try_acquire(key):
            return True
        slot = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(key, deque())
        waiting.append(slot)
        try:
            async with asyncio.timeout(max_wait_s):
                await slot
        except BaseException as error:
            if slot.done() and not slot.cancelled():
                self.release(key)  # it was handed over in the same turn of the loop
            elif slot in waiting:
                waiting.remove(slot)
                self._forget_empty(key, waiting)
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def release(self, key: Hashable) -> None:
        """Hands the slot to the longest-waiting call of the key, or frees it."""
        waiting = self._waiting.get(key)
        while waiting:
            slot = waiting.popleft()
            self._forget_empty(key, waiting)
            if not slot.done():
                slot.set_result(None)
                return
        self._active[key] -= 1
        if not self._active[key]:
            del self._active[key]

    def _forget_empty(self, key: Hashable, waiting: deque[asyncio.Future[None]]) -> None:
        if not waiting:
            del self._waiting[key]
