"""Points of the write path at which a sidecar dies."""

import os
import signal
import threading

from sidecar.spool.fault_injection import FaultPoint

LAST_CHANCE_S = 0.03
"""From the point to the death: time for the other thread to say what it should not say yet."""


class DeathAt:
    """Kills its own process, as SIGKILL from outside would, at the n-th arrival at a point."""

    def __init__(self, point: str, count: int) -> None:
        self._point = FaultPoint(point)
        self._left = count
        self._counting = threading.Lock()  # two threads come to points: the loop's and the spool's

    def hit(self, point: FaultPoint) -> None:
        if point is not self._point:
            return
        with self._counting:
            self._left -= 1
            if not self._left:
                threading.Event().wait(LAST_CHANCE_S)
                os.kill(os.getpid(), signal.SIGKILL)
