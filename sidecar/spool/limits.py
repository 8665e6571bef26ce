"""How much may wait in the spool, and what of it is kept for the ends of runs."""

from dataclasses import dataclass

RESERVE_SHARE = 8
"""One eighth of the spool is kept for terminal statuses."""
LOW_WATER = 0.9
"""A full spool takes ordinary writes again below this share of its high mark."""


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    max_bytes: int

    @property
    def high_water_bytes(self) -> int:
        return self.max_bytes - self.max_bytes // RESERVE_SHARE

    @property
    def low_water_bytes(self) -> int:
        return int(self.high_water_bytes * LOW_WATER)
