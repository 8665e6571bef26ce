"""How much may wait in the spool, and what of it is kept for the ends of runs."""

from dataclasses import dataclass

from sidecar.settings import DEFAULT_MAX_ENTRIES

RESERVE_SHARE = 8
"""One eighth of the spool is kept for terminal statuses."""
LOW_WATER = 0.9
"""A full spool takes ordinary writes again below this share of its high mark."""


@dataclass(frozen=True, slots=True)
class Amount:
    entries: int
    size_bytes: int

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.entries + other.entries, self.size_bytes + other.size_bytes)

    def __sub__(self, other: "Amount") -> "Amount":
        return Amount(self.entries - other.entries, self.size_bytes - other.size_bytes)

    def fits(self, room: "Amount") -> bool:
        return self.entries <= room.entries and self.size_bytes <= room.size_bytes


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    max_bytes: int
    max_entries: int = DEFAULT_MAX_ENTRIES

    @property
    def whole(self) -> Amount:
        return Amount(self.max_entries, self.max_bytes)

    @property
    def high_water(self) -> Amount:
        return Amount(
            self.max_entries - self.max_entries // RESERVE_SHARE,
            self.max_bytes - self.max_bytes // RESERVE_SHARE,
        )

    @property
    def low_water(self) -> Amount:
        high = self.high_water
        return Amount(int(high.entries * LOW_WATER), int(high.size_bytes * LOW_WATER))


class WatermarkGate:
    """Who may still come in. Open -> full (above the high mark) -> open (below the low mark)."""

    def __init__(self, limits: SpoolLimits) -> None:
        self._limits = limits
        self._is_full = False

    def is_full(self, held: Amount) -> bool:
        """Whether ordinary writes are refused."""
        self._is_full = self._is_full and not held.fits(self._limits.low_water)
        return self._is_full

    def admits(self, held: Amount, more: Amount, *, is_terminal: bool) -> bool:
        """Whether there is room for `more` beside what is `held`."""
        if is_terminal:
            return (held + more).fits(self._limits.whole)
        if self.is_full(held):
            return False
        if (held + more).fits(self._limits.high_water):
            return True
        # One write too large for what is left must not shut out the small ones.
        self._is_full = not held.fits(self._limits.low_water)
        return False
