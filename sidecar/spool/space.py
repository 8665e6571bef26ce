"""What settled writes took goes back to the volume, at once where it is much."""

import asyncio
import logging
import sqlite3
from contextlib import suppress

from kit.http.logs import fields
from sidecar.problems import SpoolUnavailable
from sidecar.spool.file import SpoolFile
from sidecar.spool.schema import checkpoint_truncate

logger = logging.getLogger(__name__)

RECLAIM_FROM_PAGES = 1_024
"""4 MiB of free pages are given back at once, less than that by the minute."""
RECLAIMED_PAGES = 2_048
"""8 MiB at a time, a few milliseconds of the writer's time."""


class Reclaimer:
    """Gives space back, in the background or while one waits."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        self._task: asyncio.Task[None] | None = None

    async def vacuum(self) -> None:
        while await self._file.write(reclaim, needs_sync=False):
            pass
        # The file shrinks when the log is written back, and the log when it starts anew.
        await self._file.write(checkpoint_truncate, is_alone=True)
        await self._file.refill_ballast()

    def begin(self) -> None:
        """Reclaims beside everything else, unless that is under way."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._reclaim_quietly())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _reclaim_quietly(self) -> None:
        try:
            await self.vacuum()
        except SpoolUnavailable as problem:
            logger.warning("space not given back yet", extra=fields(detail=problem.detail))


def is_mostly_free(connection: sqlite3.Connection) -> bool:
    """Whether giving space back is worth it now: then hardly a page has to be moved for it."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    return bool(free >= RECLAIM_FROM_PAGES and free * 2 >= pages)


def reclaim(connection: sqlite3.Connection) -> bool:
    """Gives free pages back to the volume, a bounded number at a time. False if none is left."""
    connection.execute(f"PRAGMA incremental_vacuum({RECLAIMED_PAGES})").fetchall()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return bool(free)
