"""Turns: how many calls of one caller are at work at the same time.

Calls share a few connections to the database. Whoever sends hundreds at once would have all of
them, and everybody else would wait behind the last one. So of one user (of one source, where no
user calls) only some are at work, and the others wait for their own to be done: a flood holds
up whoever makes it. Who waits too long is told to ask for less (429 `rate-limited`).
"""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from central.metrics import Metrics
from central.problems import RateLimited

WAIT_S = 10.0
"""As long as a sidecar waits for an answer."""
RETRY_AFTER_S = 1.0


@dataclass(slots=True)
class _Lane:
    """The calls of one caller: those at work have the semaphore, the others wait for it."""

    at_work: asyncio.Semaphore
    call_count: int = 0


class PerCallerSemaphore:
    """Promise: of one caller never more than `most` calls are at work; 0 is no limit."""

    def __init__(self, most: int, metrics: Metrics, *, wait_s: float = WAIT_S) -> None:
        self._most = most
        self._metrics = metrics
        self._wait_s = wait_s
        self._lanes: dict[Hashable, _Lane] = {}

    async def take(self, who: Hashable) -> Callable[[], None]:
        """A turn, to be ended by calling what is answered. Raises `RateLimited`."""
        if not self._most:
            return _nothing
        lane = self._lanes.setdefault(who, _Lane(asyncio.Semaphore(self._most)))
        lane.call_count += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await lane.at_work.acquire()
        except BaseException as error:
            self._leave(who, lane)
            if not isinstance(error, TimeoutError):
                raise
            self._metrics.rate_limited("turn", "calls")
            raise RateLimited(
                "too many calls of this caller wait for their turn", retry_after_s=RETRY_AFTER_S
            ) from error

        def end() -> None:
            lane.at_work.release()
            self._leave(who, lane)

        return end

    def _leave(self, who: Hashable, lane: _Lane) -> None:
        lane.call_count -= 1
        if not lane.call_count:
            del self._lanes[who]


def _nothing() -> None:
    """Where there is no limit, there is no turn to end."""
