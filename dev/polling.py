"""Waiting for what another process does and nobody announces."""

import time
from collections.abc import Callable

POLL_S = 0.01


def wait_until(
    condition: Callable[[], bool],
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Ask until the condition holds, and once at least. False if it did not in time."""
    deadline = clock() + timeout_s
    while not condition():
        if clock() >= deadline:
            return False
        sleep(POLL_S)
    return True
