"""Space kept aside on the spool's volume, given up when the volume is full.

Without it a full volume could take neither a run's last status nor the answer that frees
space, because deleting writes to the log first.
"""

import errno
import os
from pathlib import Path

BALLAST_BYTES = 4 * 1024 * 1024
"""Room for a few thousand terminal statuses and the settling of a whole batch."""
MIN_FREE_BYTES = 1024 * 1024
"""With less than this beside the ballast, the volume counts as full."""


class ReserveFile:
    """A file of real blocks. Its methods never raise: a volume that has no room for it simply has
    no ballast."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "ballast"
        self.release_count = 0

    def fill(self) -> bool:
        """Allocates the file unless it is whole. False where the volume has no room, for it or
        beside it: what space there is then is for the ends of runs. A volume with another trouble
        says so at the next write."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if os.fstat(descriptor).st_blocks * 512 < BALLAST_BYTES:
                    os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
            finally:
                os.close(descriptor)
            volume = os.statvfs(self._path)
        except OSError as error:
            self._remove()
            return error.errno not in {errno.ENOSPC, errno.EDQUOT}
        return volume.f_bavail * volume.f_frsize >= MIN_FREE_BYTES

    def release(self, since: int) -> bool:
        """Gives the space back to the volume. False if nobody has had any to give.

        `since` is the `release_count` that the caller saw before its space ran out: who shares
        the group of one that has released it shares the room.
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
