"""Long polls: those who wait for something to appear at an execution.

Whoever waits is woken by the sidecar's own writes at once. What others write is learned by
one refresh-out per execution, however many wait: it asks central again after pauses that grow to
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

Refresh = Callable[[], Awaitable[bool]]
"""Asks central anew; whether there is something that was not known before."""


@dataclass(slots=True, eq=False)
class _Waiter:
    changed: asyncio.Event
    refresh: Refresh


@dataclass(slots=True)
class _Subscription:
    waiters: list[_Waiter] = field(default_factory=list)
    poll_task: "asyncio.Task[None] | None" = None


class LongPollHub:
    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._subscriptions: dict[int, _Subscription] = {}

    @contextmanager
    def subscribe(self, execution_id: int, refresh: Refresh) -> Iterator[asyncio.Event]:
        """An event that is set when there may be news. Clear it before looking, then wait."""
        subscription = self._subscriptions.setdefault(execution_id, _Subscription())
        waiter = _Waiter(asyncio.Event(), refresh)
        subscription.waiters.append(waiter)
        if subscription.poll_task is None:
            subscription.poll_task = asyncio.ensure_future(self._poll(execution_id, subscription))
        try:
            yield waiter.changed
        finally:
            subscription.waiters.remove(waiter)
            if not subscription.waiters:
                subscription.poll_task.cancel()
                del self._subscriptions[execution_id]

    def notify(self, execution_id: int) -> None:
        """Something was written there."""
        subscription = self._subscriptions.get(execution_id)
        for waiter in subscription.waiters if subscription is not None else ():
            waiter.changed.set()

    @property
    def waiter_count(self) -> int:
        return sum(len(subscription.waiters) for subscription in self._subscriptions.values())

    async def _poll(self, execution_id: int, subscription: _Subscription) -> None:
        pause_s = POLL_MIN_S
        while True:
            await self._sleep(pause_s)
            pause_s = min(POLL_MAX_S, pause_s * POLL_BACKOFF)
            # Of a problem each caller hears from a refresh of its own, when its time is up.
            with suppress(Problem):
                # With the newest caller's token: an older one's may have expired meanwhile.
                if await subscription.waiters[-1].refresh():
                    self.notify(execution_id)
                    pause_s = POLL_MIN_S
