"""The one thread that writes the spool: group commit without any added wait.

Work that arrives while a commit runs waits in the inbox and shares the next commit. Each piece of
work runs under a savepoint of its own, so one that fails takes nothing with it; a commit that
fails fails the whole group, and nothing of it was acknowledged.

What the file's index in memory is told, it is told on the event loop and in the order of the
commits: the second half of a piece of work (`apply`) runs there before its caller goes on, and
also when the caller has left. So the index never has to guess what a commit under way will do.

Not every commit is synced. What may be lost with the machine's power because it would be learned
again (`needs_sync=False`) is only written; the next commit that is synced takes it along, as
the log is one file. Work may also *stand*: it is tried at the end of each group, inside the
same commit, until it has something to answer.

Nothing is trusted that met trouble. Of a sync that failed it cannot be known what of the log is on
the disk, and what SQLite remembers of the log stays as long as any connection has it open: so all
are abandoned, the readers' too. The file is opened anew for the next group, its log brought to the
disk again, healed if it was damaged, and the index is made from it before anything else is told.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from sidecar.spool.fault_injection import NO_FAULTS, FaultInjector, FaultPoint

T = TypeVar("T")
R = TypeVar("R")
logger = logging.getLogger(__name__)

GROUP_MAX = 512
"""Pieces of work in one commit. It bounds how long the first one waits for the last."""

_ONE_WORKS_OWN_FAULT = frozenset(
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
_SYNCED = "PRAGMA synchronous = FULL"
_NOT_SYNCED = "PRAGMA synchronous = NORMAL"  # the log is synced by the next commit that is
_LEAVE_THE_FILE_SOUND = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY})


class Opened(Protocol):
    """The file, open. Its methods are called in the committer's thread."""

    connection: sqlite3.Connection

    def check_not_replaced(self) -> None:
        """Raises OSError if the connection writes to what a restart would not find."""

    def install(self) -> None:
        """Makes the index in memory from what was read at open. Called on the event loop."""

    def write_log_back(self) -> None:
        """Writes the log back to the file where it has grown long. Raises sqlite3.Error."""

    def close(self) -> None:
        """Closes it in order: SQLite writes the log back."""

    def abandon(self) -> None:
        """Closes all that has the file open, as it is: SQLite shall remember nothing of it, and
        do nothing more with it."""


class Opener(Protocol):
    def __call__(self, *, distrust: bool) -> Opened:
        """Opens the file, healing it first if need be. `distrust`: damage was met at work."""


@dataclass(slots=True, eq=False)
class _WriteTask:
    run: Callable[[sqlite3.Connection], Any]
    apply: Callable[[Any], Any] | None
    is_alone: bool
    needs_sync: bool
    future: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None


class GroupCommitWriter:
    """Runs work on the spool's connection, in order, and answers once it is on disk.

    Errors of SQLite and of the volume reach the caller of every work in the failed group as
    they are.
    """

    def __init__(self, open_file: Opener, *, faults: FaultInjector = NO_FAULTS) -> None:
        self._open_file = open_file
        self._faults = faults
        self._inbox: SimpleQueue[_WriteTask | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._opened: Opened | None = None
        self._distrust = False
        self._is_suspected = False
        self._standing: _WriteTask | None = None
        self._is_syncing: bool | None = None
        self.commit_count = 0
        self.sync_count = 0
        """Commits that were synced, for metrics: writes per sync."""

    def start(self) -> None:
        self._thread.start()

    def submit(
        self,
        run: Callable[[sqlite3.Connection], T],
        apply: Callable[[T], Any] | None = None,
        *,
        is_alone: bool = False,
        needs_sync: bool = True,
    ) -> "asyncio.Future[Any]":
        """What `apply` makes of the result of `run`, once its commit is on disk.

        Called on the event loop only. Work that `is_alone` runs outside of any transaction.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._closed:
            future.set_exception(sqlite3.ProgrammingError("the spool is closed"))
        else:
            self._inbox.put(_WriteTask(run, apply, is_alone, needs_sync, future))
        return future

    def stand(
        self, run: Callable[[sqlite3.Connection], T | None], apply: Callable[[T], Any]
    ) -> "asyncio.Future[Any]":
        """As `submit`, but not by itself: in the first commit of other work in which `run` answers
        more than None. One at a time; cancel the future to be rid of it."""
        future: asyncio.Future[Any] = self._loop.create_future()
        work = self._standing = _WriteTask(run, apply, False, True, future)

        def leave(_: "asyncio.Future[Any]") -> None:
            if self._standing is work:
                self._standing = None

        future.add_done_callback(leave)
        return future

    def distrust(self) -> None:
        """Damage was met by a reader: the next group finds the file healed."""
        self._is_suspected = True

    async def close(self) -> None:
        """Commits what is waiting and ends the thread."""
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)

    # In the thread

    def _run(self) -> None:
        kept: _WriteTask | None = None
        try:
            while (work := kept or self._inbox.get()) is not None:
                group, kept, ending = self._group_of(work)
                self._commit(group)
                self._loop.call_soon_threadsafe(_answer, group)
                if ending:
                    return
                self._write_log_back()
        finally:
            if self._opened is not None:
                self._opened.close()

    def _group_of(self, first: _WriteTask) -> tuple[list[_WriteTask], _WriteTask | None, bool]:
        """What shares a commit; work that came too early for it; whether it is the last."""
        group = [first]
        while not first.is_alone and len(group) < GROUP_MAX and not self._inbox.empty():
            more = self._inbox.get()
            if more is None:
                return group, None, True
            if more.is_alone:
                return group, more, False
            group.append(more)
        return group, None, False

    def _commit(self, group: list[_WriteTask]) -> None:
        for is_last_try in (False, True):
            begun = False
            if self._is_suspected:
                self._is_suspected, self._distrust = False, True
                self._abandon()
            try:
                opened = self._opened or self._open()
                if group[0].is_alone:
                    group[0].result = group[0].run(opened.connection)
                    return
                is_synced = any(work.needs_sync for work in group)
                self._set_sync(opened.connection, is_synced)
                opened.connection.execute("BEGIN IMMEDIATE")
                for work in group:
                    _run_one(opened.connection, work)
                joining = self._run_standing(opened.connection) if is_synced else None
                self._faults.hit(FaultPoint.BEFORE_COMMIT)
                begun = True
                opened.connection.execute("COMMIT")
                opened.check_not_replaced()
                self._faults.hit(FaultPoint.AFTER_COMMIT)
                self.commit_count += 1
                self.sync_count += is_synced
                if joining is not None:
                    self._standing = None
                    group.append(joining)
                return
            except Exception as error:
                self._recover(error)
                # Nothing of the group was committed, and the file is about to be healed.
                if is_corruption(error) and not begun and not is_last_try:
                    continue
                for work in group:
                    work.error = error
                logger.exception("spool commit failed")
                return

    def _set_sync(self, connection: sqlite3.Connection, is_synced: bool) -> None:
        if is_synced is not self._is_syncing:
            connection.execute(_SYNCED if is_synced else _NOT_SYNCED)
            self._is_syncing = is_synced

    def _run_standing(self, connection: sqlite3.Connection) -> _WriteTask | None:
        """The standing work if it has an answer. Should the commit fail, it stands on."""
        work = self._standing
        if work is None or work.future.cancelled():
            return None
        _run_one(connection, work)
        return work if work.result is not None or work.error is not None else None

    def _open(self) -> Opened:
        opened = self._open_file(distrust=self._distrust)
        self._opened = opened
        self._is_syncing = None
        self._distrust = False
        self._loop.call_soon_threadsafe(opened.install)
        return opened

    def _write_log_back(self) -> None:
        """After the answer, so that nobody waits for it but who comes next."""
        if self._opened is None:
            return
        try:
            self._opened.write_log_back()
        except sqlite3.Error as error:
            if sqlite_code(error) not in _LEAVE_THE_FILE_SOUND:  # then it is tried again
                logger.exception("spool's log not written back")
                self._recover(error)

    def _recover(self, error: Exception) -> None:
        if self._opened is not None and sqlite_code(error) in _LEAVE_THE_FILE_SOUND:
            try:
                if self._opened.connection.in_transaction:
                    self._opened.connection.execute("ROLLBACK")
                return
            except sqlite3.Error:
                logger.exception("spool rollback failed")
        self._distrust = self._distrust or is_corruption(error)
        self._abandon()

    def _abandon(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.abandon()


def sqlite_code(error: BaseException) -> int:
    """SQLite's primary result code; 0 where it gave none."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def is_corruption(error: BaseException) -> bool:
    return sqlite_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _run_one(connection: sqlite3.Connection, work: _WriteTask) -> None:
    work.result = work.error = None
    connection.execute("SAVEPOINT work")
    try:
        work.result = work.run(connection)
    except Exception as error:
        if isinstance(error, sqlite3.Error) and sqlite_code(error) not in _ONE_WORKS_OWN_FAULT:
            raise
        work.error = error
        connection.execute("ROLLBACK TO work")
    connection.execute("RELEASE work")


def _answer(group: list[_WriteTask]) -> None:
    for work in group:
        outcome, error = work.result, work.error
        if error is None and work.apply is not None:
            try:
                outcome = work.apply(work.result)
            except Exception as failure:
                error = failure
        if work.future.cancelled():
            continue  # its caller left; what it wrote stays written
        if error is not None:
            work.future.set_exception(error)
        else:
            work.future.set_result(outcome)
