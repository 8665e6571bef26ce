"""How many writes the spool accepts: by its own limits, and by the free space of its volume."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from sidecar.problems import SpoolFull
from sidecar.settings import DEFAULT_MAX_ENTRIES
from sidecar.spool.entry import NewEntry, Priority

RETRY_AFTER_S = 5
TERMINAL_SHARE = 8
"""One eighth of the spool is for terminal statuses only."""
LOW_WATER = 0.9
"""A full spool accepts ordinary writes again below this share of its high mark."""

RESERVE_FILE_BYTES = 4 * 1024 * 1024
"""Room for a few thousand terminal statuses and the settling of a whole batch."""
MIN_FREE_BYTES = 1024 * 1024
"""With less than this beside the reserve file, the volume counts as full."""


@dataclass(frozen=True, slots=True)
class Usage:
    entries: int
    size_bytes: int

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.entries + other.entries, self.size_bytes + other.size_bytes)

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(self.entries - other.entries, self.size_bytes - other.size_bytes)

    def fits(self, limit: "Usage") -> bool:
        return self.entries <= limit.entries and self.size_bytes <= limit.size_bytes


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    max_bytes: int
    max_entries: int = DEFAULT_MAX_ENTRIES

    @property
    def whole(self) -> Usage:
        return Usage(self.max_entries, self.max_bytes)

    @property
    def high_water(self) -> Usage:
        return Usage(
            self.max_entries - self.max_entries // TERMINAL_SHARE,
            self.max_bytes - self.max_bytes // TERMINAL_SHARE,
        )

    @property
    def low_water(self) -> Usage:
        high = self.high_water
        return Usage(int(high.entries * LOW_WATER), int(high.size_bytes * LOW_WATER))


class CapacityGuard:
    """Counts writes that are being committed beside those on disk: a burst must not overfill it.

    States: open -> full (above the high mark) -> open (below the low mark).
    """

    def __init__(self, limits: SpoolLimits) -> None:
        self.limits = limits
        self._committing = Usage(0, 0)
        self._is_full = False

    def is_full(self, usage: Usage) -> bool:
        """Whether ordinary writes are refused."""
        self._is_full = self._is_full and not usage.fits(self.limits.low_water)
        return self._is_full

    def acquire(self, new: NewEntry, usage: Usage) -> Usage:
        """Takes room for a write beside the present usage; returns it, for `release`.

        Raises `SpoolFull`.
        """
        taken = Usage(1, new.size_bytes)
        usage += self._committing
        if not self._has_room(usage, taken, is_terminal=new.priority is Priority.TERMINAL):
            raise SpoolFull(
                f"{usage.entries} writes of at most {self.limits.max_entries} wait for central,"
                f" {usage.size_bytes} of at most {self.limits.max_bytes} bytes",
                retry_after_s=RETRY_AFTER_S,
            )
        self._committing += taken
        return taken

    def _has_room(self, usage: Usage, more: Usage, *, is_terminal: bool) -> bool:
        if is_terminal:
            return (usage + more).fits(self.limits.whole)
        if self.is_full(usage):
            return False
        if (usage + more).fits(self.limits.high_water):
            return True
        # One write too large for what is left must not shut out the small ones.
        self._is_full = not usage.fits(self.limits.low_water)
        return False

    def release(self, taken: Usage) -> None:
        """The write is on disk and counted there, or it failed."""
        self._committing -= taken


class ReserveFile:
    """Allocated space on the spool's volume, released when the volume is full.

    Without it a full volume could take neither a run's terminal status nor the settling that frees
    space, because deleting writes to the log first. The methods never raise: a volume without room
    for the file has no reserve.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "reserve"
        self.release_count = 0

    def fill(self) -> bool:
        """Allocates the file unless it is whole. False if the volume has no room for it or beside
        it. Any other failure of the volume shows at the next write."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if os.fstat(descriptor).st_blocks * 512 < RESERVE_FILE_BYTES:
                    os.posix_fallocate(descriptor, 0, RESERVE_FILE_BYTES)
            finally:
                os.close(descriptor)
            volume = os.statvfs(self._path)
        except OSError as error:
            self._remove()
            return error.errno not in {errno.ENOSPC, errno.EDQUOT}
        return volume.f_bavail * volume.f_frsize >= MIN_FREE_BYTES

    def release(self, since: int) -> bool:
        """Returns the space to the volume. False if there was none to return.

        `since` is the caller's `release_count` from before its space ran out: writes of one group
        share what one of them has released.
        """
        if self.release_count == since and self._remove():
            self.release_count += 1
        return self.release_count != since

    def _remove(self) -> bool:
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
