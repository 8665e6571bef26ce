"""Space kept aside on the spool's volume, given up when the volume is full.

Without it a full volume could take neither a run's last status nor the answer that frees
space, because deleting writes to the log first.
"""

import os
from pathlib import Path

BALLAST_BYTES = 4 * 1024 * 1024
"""Room for a few thousand terminal statuses and the settling of a whole batch."""


class Ballast:
    """A file of real blocks. Filling and releasing never raise: a volume that has no room for
    it simply has no ballast."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "ballast"

    def fill(self) -> bool:
        """Allocates the file unless it is whole. False where the volume has no room."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if os.fstat(descriptor).st_blocks * 512 < BALLAST_BYTES:
                    os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
            finally:
                os.close(descriptor)
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> bool:
        """Gives the space back to the volume. False if there was none to give."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
