"""Files that somebody else renews (a mounted Secret or ConfigMap), taken up without a restart."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from kit.http.logs import fields

logger = logging.getLogger(__name__)

WATCH_PERIOD_S = 30.0
"""A kubelet needs up to a minute to bring a renewed Secret; what is renewed is still good then."""

Stamp: TypeAlias = tuple[tuple[int, int, int], ...]


class ReloadingFiles:
    """What `load` makes of the files: at once, and again whenever one of them has changed.

    What cannot be loaded later (half of a pair has come, say) leaves in force what was loaded
    before, and is tried again. Raises what `load` raises, at construction only.
    """

    def __init__(self, files: Sequence[Path], load: Callable[[], None]) -> None:
        self._files = tuple(files)
        self._load = load
        self._loaded = self._stamp()
        load()

    def check(self) -> bool:
        """Loads anew if a file has changed. True if it did."""
        try:
            stamp = self._stamp()
            if stamp == self._loaded:
                return False
            self._load()
        except (OSError, ValueError) as error:
            names = ", ".join(map(str, self._files))
            logger.error("renewed files unusable", extra=fields(files=names, reason=str(error)))
            return False
        self._loaded = stamp
        logger.info("renewed files loaded", extra=fields(files=", ".join(map(str, self._files))))
        return True

    async def watch(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Checks now and then, until cancelled."""
        while True:
            await sleep(WATCH_PERIOD_S)
            self.check()

    def _stamp(self) -> Stamp:
        # Kubernetes swaps a link to a new folder: the file's number changes, if nothing else.
        found = [path.stat() for path in self._files]
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)
