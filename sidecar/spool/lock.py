"""The spool's folder, for this uid alone, and its lock file, which also identifies the volume.

Two sidecars on one file would deliver its writes twice. The lock is the kernel's and ends with the
process, however that ends.
"""

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FILE_NAME = "lock"
ATTEMPTS, PAUSE_S = 10, 0.02
"""`is_held` takes the lock for microseconds, and a start must not fail for it."""


class SpoolInUse(OSError):
    """Another sidecar uses this spool."""


class VolumeMissing(OSError):
    """The spool's volume is not there."""


class SpoolLock:
    """Held from the first `acquire` to `release`."""

    def __init__(self, directory: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self._path = directory / FILE_NAME
        self._sleep = sleep
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock, or checks that it is still held.

        Raises `SpoolInUse`; `VolumeMissing` if the directory has lost the file since then (an
        unmounted volume leaves an empty directory, which must not become a spool); OSError.
        """
        if self._descriptor is not None:
            try:
                if os.path.samestat(self._path.stat(), os.fstat(self._descriptor)):
                    return
            except FileNotFoundError as error:
                raise VolumeMissing(f"{self._path.parent} has lost its files") from error
            self.release()  # the volume is back under another number
        try:
            flags = os.O_RDWR | os.O_CREAT
            descriptor = os.open(self._path, flags, 0o600)
        except OSError:
            if not self._path.exists():
                raise
            descriptor = os.open(self._path, os.O_RDONLY)  # a read-only volume can be locked too
        if not self._lock(descriptor):
            os.close(descriptor)
            raise SpoolInUse(f"another sidecar uses {self._path.parent}")
        self._descriptor = descriptor

    def _lock(self, descriptor: int) -> bool:
        for _ in range(ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._sleep(PAUSE_S)
            else:
                return True
        return False

    def release(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


def make_private(directory: Path) -> None:
    """Makes the folder, and takes from others what an earlier umask has left to them.

    Raises OSError for a folder that cannot be made. One that is somebody else's (a volume's root)
    stays as it is: the files in it are private.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (directory, *directory.rglob("*")):
        with suppress(OSError):
            if path.stat().st_mode & 0o077 and not path.is_symlink():
                path.chmod(0o700 if path.is_dir() else 0o600)


def is_held(directory: Path) -> bool:
    """Whether a sidecar uses the spool now."""
    try:
        descriptor = os.open(directory / FILE_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
