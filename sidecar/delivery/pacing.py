"""The minimum interval between batches, so that writes in quick succession share one (ADR 0030).

After an idle interval a write is sent at once; of a stream of writes each batch takes what came
within the interval. Urgent work is exempt: a run's end, and writes that somebody waits for.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

MIN_BATCH_INTERVAL_S = 0.01
"""From the start of one batch to that of the next."""


class BatchPacer:
    """`has_urgent_work` tells whether there is work that must not be delayed."""

    def __init__(self, monotonic: Callable[[], float], has_urgent_work: Callable[[], bool]) -> None:
        self._monotonic = monotonic
        self._has_urgent_work = has_urgent_work
        self._allowed_at = monotonic()
        self._is_urgent = asyncio.Event()

    def batch_started(self) -> None:
        self._allowed_at = self._monotonic() + MIN_BATCH_INTERVAL_S

    def check_urgent(self) -> None:
        """To be called when work arrives: urgent work ends the wait."""
        if self._has_urgent_work():
            self._is_urgent.set()

    async def wait_until_allowed(self) -> None:
        self._is_urgent.clear()
        left_s = self._allowed_at - self._monotonic()
        if left_s > 0 and not self._has_urgent_work():
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._is_urgent.wait()
