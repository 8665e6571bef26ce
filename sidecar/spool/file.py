"""The spool's file on its volume: written by one thread, read beside it, healed when damaged."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from sidecar.problems import SpoolUnavailable
from sidecar.spool import salvage, schema
from sidecar.spool.ballast import Ballast
from sidecar.spool.committer import Committer
from sidecar.spool.faults import Faults

T = TypeVar("T")


class SpoolFile:
    """Runs work on the file. `load` reads what memory holds of it: at open, and after a healing.

    Every error of SQLite or the volume is raised as `SpoolUnavailable`.
    """

    def __init__(
        self, directory: Path, load: Callable[[sqlite3.Connection], None], faults: Faults
    ) -> None:
        self._directory = directory
        self._path = directory / schema.FILE_NAME
        self._load = load
        self._faults = faults
        self._ballast = Ballast(directory)
        self._committer = self._new_committer()
        self._healing = asyncio.Lock()
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="spool-reader")
        self._reader: sqlite3.Connection | None = None
        self.lost_count = 0
        self.salvage_count = 0

    @property
    def commit_count(self) -> int:
        return self._committer.commit_count

    async def open(self) -> None:
        """Opens the file, or what can be saved of it. Raises OSError for an unusable directory."""
        self._directory.mkdir(parents=True, exist_ok=True)
        await self._salvage(distrust=False)
        self._committer.start()
        await self.write(self._load)
        await asyncio.to_thread(self._ballast.fill)

    async def close(self) -> None:
        """Commits what is waiting, then closes."""
        await self._committer.close()
        await self._close_reader()
        self._readers.shutdown()

    async def write(self, work: Callable[[sqlite3.Connection], T], *, urgent: bool = False) -> T:
        """Runs work in the next commit. `urgent` work may use the ballast of a full volume."""
        committer = self._committer
        try:
            return await committer.submit(work)
        except sqlite3.Error as error:
            if _is_damage(error):
                await self._heal(committer)
            elif urgent and self._ballast.release():
                with suppress(sqlite3.Error):
                    return await self._committer.submit(work)
            raise SpoolUnavailable(f"the spool's disk: {error}", retry_after_s=5) from error

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs work on a connection that only reads; it does not wait for a commit under way."""

        def run() -> T:
            if self._reader is None:
                self._reader = schema.connect_read_only(self._path)
            return work(self._reader)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._readers, run)
        except sqlite3.Error as error:
            raise SpoolUnavailable(f"the spool's disk: {error}", retry_after_s=5) from error

    async def refill_ballast(self) -> None:
        await asyncio.to_thread(self._ballast.fill)

    async def keep_rows(self, rows: list[tuple[object, ...]]) -> None:
        """Sets rows that were found damaged aside, and counts them."""
        await asyncio.to_thread(salvage.keep_rows, self._directory, rows)
        self.lost_count += len(rows)

    async def _heal(self, broken: Committer) -> None:
        """Replaces a file found damaged at work by what can be saved of it."""
        async with self._healing:
            if self._committer is not broken:
                return  # another caller has done it
            await broken.close()
            await self._close_reader()
            await self._salvage(distrust=True)
            self._committer = self._new_committer()
            self._committer.start()
            await self._committer.submit(self._load)

    async def _salvage(self, *, distrust: bool) -> None:
        saved = await asyncio.to_thread(salvage.prepare, self._directory, distrust=distrust)
        self.lost_count += saved.lost_count
        self.salvage_count += int(saved.salvaged)

    def _new_committer(self) -> Committer:
        return Committer(lambda: schema.connect(self._path), faults=self._faults)

    async def _close_reader(self) -> None:
        def close() -> None:
            if self._reader is not None:
                self._reader.close()
                self._reader = None

        await asyncio.get_running_loop().run_in_executor(self._readers, close)


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code
    return code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
