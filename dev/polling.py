"""Polling for what another process does and does not announce."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from dev.ports import HOST

POLL_S = 0.01

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
    while not condition():
        if clock() >= deadline:
            return False
        sleep(POLL_S)
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
