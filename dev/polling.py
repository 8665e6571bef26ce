"""Polling for what another process does and does not announce."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from dev.ports import HOST

FIRST_PAUSE_S, LONGEST_PAUSE_S, PAUSE_GROWTH = 0.01, 0.1, 1.1
"""The end of a short wait is noticed at once. A long one must not keep a core busy: its check may
be a call of a service."""

Probe = Callable[[], Awaitable[bool]]


def wait_until(
    condition: Callable[[], bool],
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Check until the condition holds, at least once. False if it did not hold in time."""
    deadline = clock() + timeout_s
    pause_s = FIRST_PAUSE_S
    while not condition():
        left_s = deadline - clock()
        if left_s <= 0:
            return False
        sleep(min(pause_s, left_s))
        pause_s = min(pause_s * PAUSE_GROWTH, LONGEST_PAUSE_S)
    return True


def accepts_connections(port: int) -> Probe:
    """Whether something listens on the port."""

    async def probe() -> bool:
        try:
            _, writer = await asyncio.open_connection(HOST, port)
        except OSError:
            return False
        writer.close()
        return True

    return probe
