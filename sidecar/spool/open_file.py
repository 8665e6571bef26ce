"""The spool's file while it is open: all that has it open, and how that ends."""

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sidecar.spool import schema
from sidecar.spool.log import WalIndex
from sidecar.spool.reader import Reader

WRITTEN_BACK_FROM_FRAMES = 1_000
"""4 MiB: long enough that most pages are written back once for many commits, and short enough
that a start reads the log in no time."""


class OpenFile:
    """The writer's connection, with what else has the file open beside it.

    `tell` is called once, on the event loop, before anything else is told of the file.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        log_index: WalIndex,
        reader: Reader,
        tell: Callable[[], None],
    ) -> None:
        self.connection = connection
        self._log_index = log_index
        self._reader = reader
        self._tell: Callable[[], None] | None = tell
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
                raise OSError(errno.ESTALE, "was replaced behind the sidecar's back", path.name)

    def install(self) -> None:
        if self._tell is not None:
            self._tell()
            self._tell = None

    def write_log_back(self) -> None:
        if self._log_index.frame_count >= WRITTEN_BACK_FROM_FRAMES:
            schema.write_log_back(self.connection)

    def close(self) -> None:
        self._reader.let_go()
        self._guard.close()
        self.connection.close()  # the last one writes the log back and removes it
        self._log_index.close()

    def abandon(self) -> None:
        """The guard goes last: it cannot write, so it leaves the log as it is. Of frames that a
        failed sync lost, SQLite would write back whatever is in their place."""
        self._reader.let_go()
        for connection in (self.connection, self._guard):
            with suppress(sqlite3.Error):
                connection.close()
        self._log_index.close()
