"""Long polls: reads that wait for something to appear at an execution.

The sidecar's own writes wake them at once. Writes of others are found by one poll task per
execution, however many wait: it polls central after pauses that grow to `POLL_MAX_S`, and ends
with the last waiter.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from kit.http.problems import Problem

POLL_MIN_S = 0.25
POLL_BACKOFF = 1.5
POLL_MAX_S = 2.0
"""At most 35 calls in the longest wait of a minute; another writer's URI is seen 2 s late."""

Refresh = Callable[[], Awaitable[bool]]
"""Fetches from central; returns whether the value changed."""


@dataclass(slots=True)
class _Subscription:
    waiters: dict[asyncio.Event, Refresh] = field(default_factory=dict)
    poll_task: "asyncio.Task[None] | None" = None


class LongPollHub:
    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._subscriptions: dict[int, _Subscription] = {}

    @contextmanager
    def subscribe(self, execution_id: int, refresh: Refresh) -> Iterator[asyncio.Event]:
        """An event that is set after each change; clear it before reading, then wait again."""
        subscription = self._subscriptions.setdefault(execution_id, _Subscription())
        changed = asyncio.Event()
        subscription.waiters[changed] = refresh
        if subscription.poll_task is None:
            subscription.poll_task = asyncio.ensure_future(self._poll(execution_id, subscription))
        try:
            yield changed
        finally:
            del subscription.waiters[changed]
            if not subscription.waiters:
                subscription.poll_task.cancel()
                del self._subscriptions[execution_id]

    def notify(self, execution_id: int) -> None:
        """Wakes all who wait at the execution."""
        subscription = self._subscriptions.get(execution_id)
        for changed in subscription.waiters if subscription is not None else ():
            changed.set()

    def notify_all(self) -> None:
        """Wakes all who wait."""
        for execution_id in self._subscriptions:
            self.notify(execution_id)

    @property
    def waiter_count(self) -> int:
        return sum(len(each.waiters) for each in self._subscriptions.values())

    async def _poll(self, execution_id: int, subscription: _Subscription) -> None:
        pause_s = POLL_MIN_S
        while True:
            await self._sleep(pause_s)
            pause_s = min(POLL_MAX_S, pause_s * POLL_BACKOFF)
            # With the newest caller's token: an older one's may have expired meanwhile.
            refresh = next(reversed(subscription.waiters.values()))
            # Each caller gets a problem from a read of its own when its wait is over.
            with suppress(Problem):
                if await refresh():
                    self.notify(execution_id)
                    pause_s = POLL_MIN_S
