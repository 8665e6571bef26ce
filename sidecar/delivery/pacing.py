"""The rest of a line that has just been used, so that writes which follow each other gather.

An idle line has rested long ago: the write of a CU that writes now and then is sent at once. Of
one that writes without a pause, each batch takes what came within the rest, instead of one write
each (ADR 0030). Nothing that cannot wait is made to: not the end of a run, and not what somebody
waits for.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

MIN_BATCH_INTERVAL_S = 0.01
"""From the start of one batch to that of the next."""


class BatchPacer:
    """`cannot_wait` says whether there is something that no rest may delay."""

    def __init__(self, monotonic: Callable[[], float], cannot_wait: Callable[[], bool]) -> None:
        self._monotonic = monotonic
        self._has_urgent_work = cannot_wait
        self._ends_at = monotonic()
        self._roused = asyncio.Event()

    def begin(self) -> None:
        self._ends_at = self._monotonic() + MIN_BATCH_INTERVAL_S

    def look(self) -> None:
        """Something has changed: ends the rest if now there is something that cannot wait."""
        if self._has_urgent_work():
            self._roused.set()

    async def over(self) -> None:
        """Returns once the line may be used."""
        self._roused.clear()
        left_s = self._ends_at - self._monotonic()
        if left_s > 0 and not self._has_urgent_work():
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._roused.wait()
