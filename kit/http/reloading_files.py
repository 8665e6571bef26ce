"""Mounted files (a Secret, a ConfigMap) that are reloaded when they change, without a restart."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from kit.http.logs import fields

logger = logging.getLogger(__name__)

WATCH_PERIOD_S = 30.0
"""A kubelet takes up to a minute to update a mounted Secret; the old content is still valid."""

FileVersion: TypeAlias = tuple[int, int, int]


def file_version(path: Path) -> FileVersion:
    """Differs once the file was replaced. Follows links: Kubernetes swaps one to a new folder, so
    the inode changes even if size and time do not. Raises OSError."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


class ReloadingFiles:
    """Calls `load` at construction, and again whenever one of the files has changed.

    A reload that fails (one half of a pair was replaced, say) keeps what was loaded before and is
    retried. Raises what `load` raises, at construction only.
    """

    def __init__(self, files: Sequence[Path], load: Callable[[], None]) -> None:
        self._files = tuple(files)
        self._load = load
        self._loaded = self._versions()
        load()

    def check(self) -> bool:
        """Reloads if a file has changed. True if it did."""
        names = ", ".join(map(str, self._files))
        try:
            versions = self._versions()
            if versions == self._loaded:
                return False
            self._load()
        except (OSError, ValueError) as error:
            logger.error("reload failed", extra=fields(files=names, reason=str(error)))
            return False
        self._loaded = versions
        logger.info("files reloaded", extra=fields(files=names))
        return True

    async def watch(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Checks periodically, until cancelled."""
        while True:
            await sleep(WATCH_PERIOD_S)
            self.check()

    def _versions(self) -> list[FileVersion]:
        return [file_version(path) for path in self._files]
