"""The spool's file on its volume: written by one thread, read beside it, healed when damaged.

A volume that is read-only, full, gone or back again never ends the sidecar: each call says what is
wrong (`SpoolUnavailable`, `SpoolVolumeFull`), and the next one tries again.
"""

import asyncio
import errno
import functools
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from kit.http.logs import fields
from sidecar.problems import SpoolUnavailable, SpoolVolumeFull
from sidecar.spool import quarantine, salvage, schema
from sidecar.spool.ballast import ReserveFile
from sidecar.spool.committer import GroupCommitWriter, is_corruption, sqlite_code
from sidecar.spool.entry import WriteRecord
from sidecar.spool.fault_injection import FaultInjector
from sidecar.spool.lock import SpoolInUse, SpoolLock
from sidecar.spool.open_file import OpenFile
from sidecar.spool.reader import NotOpened, Reader
from sidecar.spool.snapshot import Snapshot

T = TypeVar("T")
logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5


class SpoolFile:
    """Runs work on the file. Each time it is opened `number_from` is told, in the thread that
    writes, the first number that is free, and then `load`, on the event loop, what the file holds,
    and `found_damaged` which writes ended at that.

    Every error of SQLite or the volume is raised as `SpoolUnavailable`.
    """

    def __init__(
        self,
        directory: Path,
        load: Callable[[Snapshot], None],
        number_from: Callable[[int], None],
        found_damaged: Callable[[Sequence[WriteRecord]], None],
        faults: FaultInjector,
    ) -> None:
        self._directory = directory
        self._path = directory / schema.FILE_NAME
        self._load = load
        self._number_from = number_from
        self._found_damaged = found_damaged
        self._ballast = ReserveFile(directory)
        self._lock = SpoolLock(directory)
        self._committer = GroupCommitWriter(self._open_in_thread, faults=faults)
        self._reader = Reader(self._path)
        self.lost_count = 0
        self.salvage_count = 0
        self.disk_full = False
        """What space is left is for terminal statuses and for settling, which frees some."""
        self.unavailable_because: str | None = None
        """Why the last call failed; None once one has succeeded."""

    @property
    def commit_count(self) -> int:
        return self._committer.commit_count

    @property
    def sync_count(self) -> int:
        return self._committer.sync_count

    async def open(self) -> None:
        """Opens the file, or what can be saved of it; a volume in trouble is tried again later.

        Raises `SpoolInUse` and `UnknownFormat`.
        """
        self._committer.start()
        try:
            await self.write(lambda connection: None)
        except SpoolUnavailable as problem:
            if isinstance(problem.__cause__, SpoolInUse | schema.UnknownFormat):
                await self.close()
                raise problem.__cause__ from None
            logger.error("spool unavailable at start", extra=fields(detail=problem.detail))
        await self.refill_ballast()

    async def close(self) -> None:
        """Commits what is waiting, then closes."""
        await self._committer.close()
        await self._reader.close()
        self._lock.release()

    async def write(
        self,
        work: Callable[[sqlite3.Connection], T],
        apply: Callable[[T], Any] | None = None,
        *,
        urgent: bool = False,
        is_alone: bool = False,
        needs_sync: bool = True,
    ) -> Any:
        """What `apply` makes of the result, once its commit is on disk (see `GroupCommitWriter`).

        `urgent` work may use the ballast of a full volume, and the room of the log.
        """
        releases = self._ballast.release_count
        try:
            answer = await self._committer.submit(
                work, apply, is_alone=is_alone, needs_sync=needs_sync
            )
        except (sqlite3.Error, OSError) as error:
            self.disk_full = self.disk_full or _is_no_space(error)
            # What was opened while the volume was read-only stays so: it may be writable by now.
            is_read_only = sqlite_code(error) == sqlite3.SQLITE_READONLY
            if not is_read_only and not (urgent and _is_no_space(error)):
                raise self._problem_of(error) from error
            if not is_read_only and not self._ballast.release(releases):
                # What was written lately stands in the log and in the file: written back, the
                # log gives its room to this.
                with suppress(sqlite3.Error, OSError):
                    await self._committer.submit(schema.checkpoint_truncate, is_alone=True)
            try:
                answer = await self._committer.submit(
                    work, apply, is_alone=is_alone, needs_sync=needs_sync
                )
            except (sqlite3.Error, OSError) as second:
                raise self._problem_of(second) from second
        self.unavailable_because = None
        return answer

    async def write_with_others(
        self, work: Callable[[sqlite3.Connection], T | None], apply: Callable[[T], Any]
    ) -> Any:
        """As `write`, in the first commit of others in which the work answers more than None."""
        try:
            return await self._committer.stand(work, apply)
        except (sqlite3.Error, OSError) as error:
            raise self._problem_of(error) from error

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs work on a connection that only reads; it does not wait for a commit under way."""
        try:
            return await self._reader.read(work)
        except NotOpened:
            pass
        except (sqlite3.Error, OSError) as error:
            if not is_corruption(error):
                raise self._problem_of(error) from error
            self._committer.distrust()
        await self.write(lambda connection: None)  # opens it
        try:
            return await self._reader.read(work)
        except (NotOpened, sqlite3.Error, OSError) as error:
            raise self._problem_of(error) from error

    async def refill_ballast(self) -> None:
        has_room = await asyncio.to_thread(self._ballast.fill)
        self.disk_full = not has_room and self.unavailable_because is None

    def _problem_of(self, error: Exception) -> SpoolUnavailable:
        kind = SpoolVolumeFull if _is_no_space(error) else SpoolUnavailable
        problem = kind(f"the spool's volume: {error}", retry_after_s=RETRY_AFTER_S)
        self.unavailable_because = problem.detail
        return problem

    # In the committer's thread

    def _open_in_thread(self, *, distrust: bool) -> OpenFile:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock.hold()
        connection, index, salvaged = salvage.open_spool(self._directory, distrust=distrust)
        try:
            snapshot = Snapshot.of(connection)
            # What shares this group is numbered before the event loop hears of the new file.
            self._number_from(snapshot.next_seq + salvaged.seq_leap)
            tell = functools.partial(self._opened, snapshot, salvaged)
            return OpenFile(self._path, connection, index, self._reader, tell)
        except BaseException:
            connection.close()
            index.close()
            raise

    def _opened(self, snapshot: Snapshot, salvaged: salvage.RecoveryReport) -> None:
        """On the event loop: the file was opened, and this is what it holds."""
        self.lost_count += salvaged.lost_count
        self.salvage_count += int(salvaged.salvaged)
        self._load(snapshot)
        if salvaged.ended:
            self.lost_count += len(salvaged.ended)
            self._found_damaged(salvaged.ended)

    def keep_rows(self, rows: list[tuple[Any, ...]]) -> None:
        """In the committer's thread, before damaged rows leave the file."""
        self.lost_count += len(rows)
        quarantine.keep_rows(self._directory, rows)


def _is_no_space(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    extended = getattr(error, "sqlite_errorcode", 0)
    return sqlite_code(error) == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE
