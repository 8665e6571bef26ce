"""The spool's file on its volume: written by one thread, read beside it, recovered when damaged.

A volume that is read-only, full, gone or back again never ends the sidecar: each call says what is
wrong (`SpoolUnavailable`, `SpoolVolumeFull`), and the next one tries again.
"""

import asyncio
import errno
import functools
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from kit.http.logs import fields
from sidecar.problems import SpoolUnavailable, SpoolVolumeFull
from sidecar.spool import recovery, schema
from sidecar.spool.capacity import RETRY_AFTER_S, ReserveFile
from sidecar.spool.entry import WriteRecord
from sidecar.spool.fault_injection import FaultInjector
from sidecar.spool.lock import SpoolInUse, SpoolLock
from sidecar.spool.queue_index import IndexSnapshot
from sidecar.spool.schema import is_corruption, sqlite_code
from sidecar.spool.wal import WalIndex
from sidecar.spool.writer import GroupCommitWriter

T = TypeVar("T")
logger = logging.getLogger(__name__)

CHECKPOINT_FROM_FRAMES = 1_000
"""4 MiB: long enough that most pages are written back once for many commits, and short enough that
a start reads the log in no time."""


class SpoolFile:
    """Runs tasks and queries on the file. Every error of SQLite or the volume is raised as
    `SpoolUnavailable`.

    Each time the file is opened, `set_next_seq` is called in the writer's thread with the first
    free number; then, on the event loop, `load` with what the file holds and `on_corrupted` with
    the writes that ended because they were corrupted. `is_replacement`: if there is no file yet,
    there was one before.
    """

    def __init__(
        self,
        directory: Path,
        load: Callable[[IndexSnapshot], None],
        set_next_seq: Callable[[int], None],
        on_corrupted: Callable[[Sequence[WriteRecord]], None],
        faults: FaultInjector,
        new_writer: Callable[..., GroupCommitWriter] = GroupCommitWriter,
        *,
        is_replacement: bool = False,
    ) -> None:
        self._directory = directory
        self._is_replacement = is_replacement
        self._path = directory / schema.FILE_NAME
        self._load = load
        self._set_next_seq = set_next_seq
        self._on_corrupted = on_corrupted
        self._reserve = ReserveFile(directory)
        self._lock = SpoolLock(directory)
        self.writer = new_writer(self._open_in_thread, faults=faults)
        self._reader = Reader(self._path)
        self.lost_count = 0
        self.rebuild_count = 0
        self.disk_full = False
        """What space is left is for terminal statuses and for settling, which frees some."""
        self.unavailable_because: str | None = None
        """Why the last call failed; None once one has succeeded."""

    async def open(self) -> None:
        """Opens the file, recovering it if need be; an unusable volume is retried later.

        Raises `SpoolInUse` and `UnknownFormat`.
        """
        self.writer.start()
        try:
            await self.write(lambda connection: None)
        except SpoolUnavailable as problem:
            if isinstance(problem.__cause__, SpoolInUse | schema.UnknownFormat):
                await self.close()
                raise problem.__cause__ from None
            logger.error("spool unavailable at start", extra=fields(detail=problem.detail))
        await self.refill_reserve()

    async def close(self) -> None:
        """Commits what waits, then closes."""
        await self.writer.close()
        await self._reader.close()
        self._lock.release()

    async def write(
        self,
        task: Callable[[sqlite3.Connection], T],
        on_commit: Callable[[T], Any] | None = None,
        *,
        use_reserve: bool = False,
        outside_transaction: bool = False,
        needs_sync: bool = True,
    ) -> Any:
        """See `GroupCommitWriter.submit`. With `use_reserve`, the task may use the reserve of a
        full volume, and the space of the log."""
        submit = functools.partial(
            self.writer.submit,
            task,
            on_commit,
            outside_transaction=outside_transaction,
            needs_sync=needs_sync,
        )
        release_count = self._reserve.release_count
        try:
            result = await submit()
        except (sqlite3.Error, OSError) as error:
            self.disk_full = self.disk_full or _is_no_space(error)
            # What was opened while the volume was read-only stays so; it may be writable by now.
            is_read_only = sqlite_code(error) == sqlite3.SQLITE_READONLY
            if not is_read_only and not (use_reserve and _is_no_space(error)):
                raise self._problem_of(error) from error
            if not is_read_only and not self._reserve.release(release_count):
                # Recent writes are in the log and in the file; written back, the log frees space.
                with suppress(sqlite3.Error, OSError):
                    await self.writer.submit(schema.checkpoint_truncate, outside_transaction=True)
            try:
                result = await submit()
            except (sqlite3.Error, OSError) as second:
                raise self._problem_of(second) from second
        self.unavailable_because = None
        return result

    async def piggyback(
        self, task: Callable[[sqlite3.Connection], T | None], on_commit: Callable[[T], Any]
    ) -> Any:
        """See `GroupCommitWriter.piggyback`."""
        try:
            return await self.writer.piggyback(task, on_commit)
        except (sqlite3.Error, OSError) as error:
            raise self._problem_of(error) from error

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Runs a query on a read-only connection; it does not wait for a commit under way."""
        try:
            return await self._reader.read(query)
        except NotOpened:
            pass
        except (sqlite3.Error, OSError) as error:
            if not is_corruption(error):
                raise self._problem_of(error) from error
            self.writer.mark_suspect()
        await self.write(lambda connection: None)  # opens it
        try:
            return await self._reader.read(query)
        except (NotOpened, sqlite3.Error, OSError) as error:
            raise self._problem_of(error) from error

    async def refill_reserve(self) -> None:
        has_room = await asyncio.to_thread(self._reserve.fill)
        self.disk_full = not has_room and self.unavailable_because is None

    async def vacuum(self) -> None:
        """Returns free space to the volume."""
        while await self.write(schema.vacuum_step, needs_sync=False):
            pass
        # The file shrinks when the log is written back, and the log when it starts over.
        await self.write(schema.checkpoint_truncate, outside_transaction=True)
        await self.refill_reserve()

    def _problem_of(self, error: Exception) -> SpoolUnavailable:
        kind = SpoolVolumeFull if _is_no_space(error) else SpoolUnavailable
        problem = kind(f"the spool's volume: {error}", retry_after_s=RETRY_AFTER_S)
        self.unavailable_because = problem.detail
        return problem

    # In the writer's thread

    def keep_rows(self, rows: list[tuple[Any, ...]]) -> None:
        """Quarantines corrupted rows before they leave the file."""
        self.lost_count += len(rows)
        recovery.keep_rows(self._directory, rows)

    def _open_in_thread(self, *, is_suspect: bool) -> "OpenFile":
        self._directory.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        connection, index, report = recovery.open_or_recover(
            self._directory, is_suspect=is_suspect, is_replacement=self._is_replacement
        )
        self._is_replacement = True  # should there be no file the next time
        try:
            snapshot = IndexSnapshot.of(connection)
            # The rest of this group is numbered before the event loop learns of the new file.
            self._set_next_seq(snapshot.next_seq + report.seq_gap)
            load = functools.partial(self._on_opened, snapshot, report)
            return OpenFile(self._path, connection, index, self._reader, load)
        except BaseException:
            connection.close()
            index.close()
            raise

    def _on_opened(self, snapshot: IndexSnapshot, report: recovery.RecoveryReport) -> None:
        """On the event loop."""
        self.lost_count += report.lost_count + len(report.ended)
        self.rebuild_count += int(report.is_rebuilt)
        self._load(snapshot)
        if report.ended:
            self._on_corrupted(report.ended)


class NotOpened(Exception):
    """The writer has not opened the file yet, or not again."""


class Reader:
    """The connection that reads beside the writer, on a thread of its own.

    Opened on first use, and again after the file was replaced, but only while the writer has the
    file open: the writer alone knows whether it may be trusted. Errors are SQLite's own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_allowed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool-reader")
        self._opened: tuple[sqlite3.Connection, os.stat_result] | None = None

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Raises `NotOpened` too."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._run, query)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    # In the writer's thread, which waits for a read under way

    def allow(self) -> None:
        """The writer has the file open."""
        self._is_allowed = True

    def disallow(self) -> None:
        """Closes the connection; reads fail until `allow`."""
        self._is_allowed = False
        self._thread.submit(self._close).result()

    # In its own thread

    def _run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        if not self._is_allowed:
            raise NotOpened
        if self._opened is None or not os.path.samestat(self._path.stat(), self._opened[1]):
            self._close()
            self._opened = (schema.connect_read_only(self._path), self._path.stat())
        connection = self._opened[0]
        try:
            # One snapshot for all statements: a settle moves a write from one table to another.
            connection.execute("BEGIN")
            try:
                return query(connection)
            finally:
                connection.rollback()
        except sqlite3.Error:
            self._close()
            raise

    def _close(self) -> None:
        if self._opened is not None:
            self._opened[0].close()
            self._opened = None


class OpenFile:
    """The writer's connection, with everything else that has the file open beside it.

    `load_index` is called once, on the event loop, before any other result of the file.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        wal_index: WalIndex,
        reader: Reader,
        load_index: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.load_index = load_index
        self._wal_index = wal_index
        self._reader = reader
        self._paths = (path, path.with_name(path.name + schema.WAL_SUFFIX))
        self._known: list[os.stat_result] | None = None
        self._guard = schema.connect_read_only(path)
        try:
            schema.version_of(self._guard)  # from its first read on it has the file open
        except sqlite3.Error:
            self._guard.close()
            raise
        reader.allow()

    def check_not_replaced(self) -> None:
        """SQLite goes on writing to a file that was moved or deleted; a restart would not find it.

        Raises OSError.
        """
        found = [path.stat() for path in self._paths]
        if self._known is None:
            self._known = found
        for path, known, now in zip(self._paths, self._known, found, strict=True):
            if not os.path.samestat(known, now):
                raise OSError(errno.ESTALE, "was replaced by another process", path.name)

    def checkpoint(self) -> None:
        if self._wal_index.valid_frames >= CHECKPOINT_FROM_FRAMES:
            schema.checkpoint(self.connection)

    def close(self) -> None:
        self._reader.disallow()
        self._guard.close()
        self.connection.close()  # the last one writes the log back and removes it
        self._wal_index.close()

    def abandon(self) -> None:
        """The guard closes last. It cannot write, so it leaves the log as it is: of frames that a
        failed sync lost, SQLite would write back whatever is in their place."""
        self._reader.disallow()
        for connection in (self.connection, self._guard):
            with suppress(sqlite3.Error):
                connection.close()
        self._wal_index.close()


def _is_no_space(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    extended = getattr(error, "sqlite_errorcode", 0)
    return sqlite_code(error) == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE
