"""Named points between two steps of a write, at which a test may kill the process.

Production passes `NO_FAULTS`. A point then costs one method call, in places that each cost a disk
sync or a round trip anyway.
"""

from enum import StrEnum
from typing import Protocol


class FaultPoint(StrEnum):
    BEFORE_COMMIT = "before-commit"
    AFTER_COMMIT = "after-commit"
    BEFORE_CUT = "before-cut"
    AFTER_CUT = "after-cut"
    BEFORE_SEND = "before-send"
    AFTER_RESPONSE = "after-response"
    BEFORE_SETTLE = "before-settle"
    AFTER_SETTLE = "after-settle"


class FaultInjector(Protocol):
    def hit(self, point: FaultPoint) -> None:
        """May end the process, or do nothing."""


class _NoFaults:
    def hit(self, point: FaultPoint) -> None:
        pass


NO_FAULTS: FaultInjector = _NoFaults()
