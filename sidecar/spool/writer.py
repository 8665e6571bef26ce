"""The one thread that writes the spool: group commit without any added wait.

# Groups

Tasks that arrive while a commit runs wait in the inbox and share the next commit. Each task runs
under a savepoint of its own, so one that fails takes nothing with it. A commit that fails fails the
whole group, of which nothing was acknowledged.

    event loop            submit A          submit B, C                 A done     B, C done
                             |                  |  |                      ^            ^
    inbox                    +->[A]             +--+->[B, C]              |            |
                                 |                      |                 |            |
    thread                     BEGIN A COMMIT+fsync   BEGIN B C COMMIT+fsync ---------+

`on_commit` of a task runs on the event loop, in the order of the commits, before its caller
continues, and also if the caller was cancelled. So the index in memory never has to guess what a
commit under way will do.

# Syncs

Not every commit is synced. What may be lost in a power failure because it would be learned again
(`needs_sync=False`) is only written; the next synced commit syncs it too, as the log is one file. A
group is synced if any of its tasks needs it.

# Piggyback

A piggyback task has no commit of its own. It is tried at the end of each synced group, inside the
same transaction, until it has a result. Delivery cuts its next batch this way while the system is
idle: append and cut share one fsync, and a lone write is sent right after its acknowledgement.

    without:  append | fsync | acknowledge | cut | fsync | send
    with:     append + cut | fsync | acknowledge, send

    states:   none --piggyback()--> waiting --result in a group--> joins that group --> none
                                       |
                                       +------ future cancelled -------------------> none

# Failures

After a failed sync nobody can know what of the log is on the disk, and what SQLite has indexed of
the log stays as long as any connection has it open (ADR 20). So every connection is abandoned, the
readers' too. The file is opened again for the next group: its log is rewritten and synced, the file
recovered if it was damaged, and the index loaded before any other `on_commit` runs.
"""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from sidecar.spool.fault_injection import NO_FAULTS, FaultInjector, FaultPoint
from sidecar.spool.schema import is_corruption, sqlite_code

T = TypeVar("T")
logger = logging.getLogger(__name__)

GROUP_MAX = 512
"""Tasks in one commit. It bounds how long the first one waits for the last."""

_TASK_ERRORS = frozenset(
    {
        0,  # raised by the driver: a value it cannot bind, a text it cannot decode
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_TOOBIG,
    }
)
"""Errors of one task; any other is the file's, and fails the group."""
_FILE_STAYS_SOUND = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY})
_SYNCED = "PRAGMA synchronous = FULL"
_NOT_SYNCED = "PRAGMA synchronous = NORMAL"  # the log is synced by the next commit that is


class Opened(Protocol):
    """The open file. Its methods are called in the writer's thread."""

    connection: sqlite3.Connection

    def check_not_replaced(self) -> None:
        """Raises OSError if the connection writes to what a restart would not find."""

    def load_index(self) -> None:
        """Loads the index in memory with what was read at open. Called on the event loop."""

    def checkpoint(self) -> None:
        """Writes the log back to the file if it has grown long. Raises sqlite3.Error."""

    def close(self) -> None:
        """Closes everything; SQLite writes the log back."""

    def abandon(self) -> None:
        """Closes everything without a checkpoint."""


class Opener(Protocol):
    def __call__(self, *, is_suspect: bool) -> Opened:
        """Opens the file, recovering it if need be. `is_suspect`: corruption was found in use."""


@dataclass(slots=True, eq=False)
class _WriteTask:
    run: Callable[[sqlite3.Connection], Any]
    on_commit: Callable[[Any], Any] | None
    outside_transaction: bool
    needs_sync: bool
    future: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None


class GroupCommitWriter:
    """Runs tasks on the spool's connection, in order; each is done once it is on disk.

    Errors of SQLite and of the volume reach every caller of the failed group as they are.
    """

    def __init__(
        self,
        open_file: Opener,
        *,
        faults: FaultInjector = NO_FAULTS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._open_file = open_file
        self._faults = faults
        self._clock = clock
        self._inbox: SimpleQueue[_WriteTask | None] = SimpleQueue()
        self._next_task: _WriteTask | None = None
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._opened: Opened | None = None
        self._is_suspect = False
        self._was_marked_suspect = False
        self._piggyback: _WriteTask | None = None
        self._is_syncing: bool | None = None
        self.commit_count = 0
        self.sync_count = 0
        self.on_synced: Callable[[float], None] = lambda seconds: None
        """Called in the thread with the duration of each synced commit."""

    def start(self) -> None:
        self._thread.start()

    def submit(
        self,
        run: Callable[[sqlite3.Connection], T],
        on_commit: Callable[[T], Any] | None = None,
        *,
        outside_transaction: bool = False,
        needs_sync: bool = True,
    ) -> "asyncio.Future[Any]":
        """Resolves to what `on_commit` makes of the result of `run`, once that is on disk.

        Called on the event loop only.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._closed:
            future.set_exception(sqlite3.ProgrammingError("the spool is closed"))
        else:
            self._inbox.put(_WriteTask(run, on_commit, outside_transaction, needs_sync, future))
        return future

    def piggyback(
        self, run: Callable[[sqlite3.Connection], T | None], on_commit: Callable[[T], Any]
    ) -> "asyncio.Future[Any]":
        """As `submit`, in the first synced commit of other tasks in which `run` has a result.

        One at a time; cancel the future to withdraw it.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        task = self._piggyback = _WriteTask(run, on_commit, False, True, future)

        def withdraw(_: "asyncio.Future[Any]") -> None:
            if self._piggyback is task:
                self._piggyback = None

        future.add_done_callback(withdraw)
        return future

    def mark_suspect(self) -> None:
        """A reader found corruption: the file is recovered before the next group."""
        self._was_marked_suspect = True

    async def close(self) -> None:
        """Commits what waits and ends the thread."""
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)

    # In the thread

    def _run(self) -> None:
        try:
            while self.commit_next():
                pass
        finally:
            self.close_file()

    def commit_next(self) -> bool:
        """Commits the next group; waits for its first task. False after the last one.

        The thread is this in a loop. A simulation has no thread: it overrides `start`, `submit` and
        `close`, and takes each step itself when its event loop decides to (tests/simulation).
        """
        task, self._next_task = self._next_task or self._inbox.get(), None
        if task is None:
            return False
        group, self._next_task, is_last = self._group_of(task)
        self._commit(group)
        self._loop.call_soon_threadsafe(_resolve, group)
        if not is_last:
            self._checkpoint()
        return not is_last

    def close_file(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def _group_of(self, first: _WriteTask) -> tuple[list[_WriteTask], _WriteTask | None, bool]:
        """The tasks that share a commit, a task taken too early, and whether it is the last."""
        group = [first]
        while not first.outside_transaction and len(group) < GROUP_MAX and not self._inbox.empty():
            task = self._inbox.get()
            if task is None:
                return group, None, True
            if task.outside_transaction:
                return group, task, False
            group.append(task)
        return group, None, False

    def _commit(self, group: list[_WriteTask]) -> None:
        for is_last_try in (False, True):
            is_committing = False
            if self._was_marked_suspect:
                self._was_marked_suspect, self._is_suspect = False, True
                self._abandon()
            try:
                opened = self._opened or self._open()
                if group[0].outside_transaction:
                    group[0].result = group[0].run(opened.connection)
                    return
                is_synced = any(task.needs_sync for task in group)
                self._set_sync(opened.connection, is_synced)
                opened.connection.execute("BEGIN IMMEDIATE")
                for task in group:
                    _run_one(opened.connection, task)
                joining = self._run_piggyback(opened.connection) if is_synced else None
                self._faults.hit(FaultPoint.BEFORE_COMMIT)
                is_committing = True
                began_at = self._clock()
                opened.connection.execute("COMMIT")
                if is_synced:
                    self.on_synced(self._clock() - began_at)
                opened.check_not_replaced()
                self._faults.hit(FaultPoint.AFTER_COMMIT)
                self.commit_count += 1
                self.sync_count += is_synced
                if joining is not None:
                    self._piggyback = None
                    group.append(joining)
                return
            except Exception as error:
                self._handle_failure(error)
                # Nothing of the group was committed, and the file is about to be recovered.
                if is_corruption(error) and not is_committing and not is_last_try:
                    continue
                for task in group:
                    task.error = error
                logger.exception("spool commit failed")
                return

    def _set_sync(self, connection: sqlite3.Connection, is_synced: bool) -> None:
        if is_synced is not self._is_syncing:
            connection.execute(_SYNCED if is_synced else _NOT_SYNCED)
            self._is_syncing = is_synced

    def _run_piggyback(self, connection: sqlite3.Connection) -> _WriteTask | None:
        """The piggyback task if it has a result. If the commit fails, it goes on waiting."""
        task = self._piggyback
        if task is None or task.future.cancelled():
            return None
        _run_one(connection, task)
        return task if task.result is not None or task.error is not None else None

    def _open(self) -> Opened:
        opened = self._open_file(is_suspect=self._is_suspect)
        self._opened = opened
        self._is_syncing = None
        self._is_suspect = False
        self._loop.call_soon_threadsafe(opened.load_index)
        return opened

    def _checkpoint(self) -> None:
        """After the group's callers have their results, so that only the next group waits."""
        if self._opened is None:
            return
        try:
            self._opened.checkpoint()
        except sqlite3.Error as error:
            if sqlite_code(error) not in _FILE_STAYS_SOUND:  # else it is retried
                logger.exception("spool checkpoint failed")
                self._handle_failure(error)

    def _handle_failure(self, error: Exception) -> None:
        if self._opened is not None and sqlite_code(error) in _FILE_STAYS_SOUND:
            try:
                if self._opened.connection.in_transaction:
                    self._opened.connection.execute("ROLLBACK")
                return
            except sqlite3.Error:
                logger.exception("spool rollback failed")
        self._is_suspect = self._is_suspect or is_corruption(error)
        self._abandon()

    def _abandon(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.abandon()


def _run_one(connection: sqlite3.Connection, task: _WriteTask) -> None:
    task.result = task.error = None
    connection.execute("SAVEPOINT task")
    try:
        task.result = task.run(connection)
    except Exception as error:
        if isinstance(error, sqlite3.Error) and sqlite_code(error) not in _TASK_ERRORS:
            raise
        task.error = error
        connection.execute("ROLLBACK TO task")
    connection.execute("RELEASE task")


def _resolve(group: list[_WriteTask]) -> None:
    for task in group:
        result, error = task.result, task.error
        if error is None and task.on_commit is not None:
            try:
                result = task.on_commit(task.result)
            except Exception as failure:
                error = failure
        if task.future.cancelled():
            continue  # the write stays, though its caller is gone
        if error is not None:
            task.future.set_exception(error)
        else:
            task.future.set_result(result)
