"""The one thread that writes the spool: group commit without any added wait.

Work that arrives while a commit runs waits in the inbox and shares the next commit. Each
piece of work runs under a savepoint of its own, so one that fails takes nothing with it;
a commit that fails fails the whole group, and nothing of it was acknowledged.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from sidecar.spool.faults import NO_FAULTS, FaultPoint, Faults

T = TypeVar("T")
logger = logging.getLogger(__name__)

GROUP_MAX = 512
"""Pieces of work in one commit. It bounds how long the first one waits for the last."""


@dataclass(slots=True)
class _Work:
    run: Callable[[sqlite3.Connection], Any]
    future: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None


class Committer:
    """Runs work on the spool's connection, in order, and answers once it is on disk.

    `connect` opens the connection, in the thread. Errors of SQLite reach the caller of every
    work in the failed group as they are.
    """

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        faults: Faults = NO_FAULTS,
    ) -> None:
        self._connect = connect
        self._faults = faults
        self._inbox: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self.commit_count = 0
        """Commits that wrote something, for metrics: writes per sync."""

    def start(self) -> None:
        self._thread.start()

    def submit(self, run: Callable[[sqlite3.Connection], T]) -> "asyncio.Future[T]":
        """The result of `run` once its commit is on disk. Called on the event loop only."""
        future: asyncio.Future[T] = self._loop.create_future()
        if self._closed:
            future.set_exception(sqlite3.ProgrammingError("the spool is closed"))
        else:
            self._inbox.put(_Work(run, future))
        return future

    async def close(self) -> None:
        """Commits what is waiting and ends the thread."""
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        try:
            while (work := self._inbox.get()) is not None:
                group = [work]
                ending = False
                while len(group) < GROUP_MAX and not self._inbox.empty():
                    more = self._inbox.get()
                    if more is None:
                        ending = True
                        break
                    group.append(more)
                connection = self._commit(connection, group)
                self._loop.call_soon_threadsafe(_answer, group)
                if ending:
                    return
        finally:
            if connection is not None:
                connection.close()

    def _commit(
        self, connection: sqlite3.Connection | None, group: list[_Work]
    ) -> sqlite3.Connection | None:
        """The connection for the next group; None if it has to be opened anew by then."""
        try:
            connection = connection or self._connect()
            connection.execute("BEGIN IMMEDIATE")
            for work in group:
                _run_alone(connection, work)
            self._faults.reach(FaultPoint.BEFORE_COMMIT)
            connection.execute("COMMIT")
            self._faults.reach(FaultPoint.AFTER_COMMIT)
            self.commit_count += 1
        except sqlite3.Error as error:
            for work in group:
                work.error = error
            logger.exception("spool commit failed")
            # After a failed sync nothing the connection remembers can be trusted.
            if connection is not None:
                connection.close()
            return None
        return connection


def _run_alone(connection: sqlite3.Connection, work: _Work) -> None:
    connection.execute("SAVEPOINT work")
    try:
        work.result = work.run(connection)
    except sqlite3.Error:
        raise
    except Exception as error:
        work.error = error
        connection.execute("ROLLBACK TO work")
    connection.execute("RELEASE work")


def _answer(group: list[_Work]) -> None:
    for work in group:
        if work.future.cancelled():
            continue  # its caller left; what it wrote stays written
        if work.error is not None:
            work.future.set_exception(work.error)
        else:
            work.future.set_result(work.result)
