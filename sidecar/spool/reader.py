"""The connection that reads beside the writer, on a thread of its own."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sidecar.spool import schema

T = TypeVar("T")


class NotOpened(Exception):
    """The writer has not opened the file yet, or not again."""


class Reader:
    """Opened on first use, and again after the file was replaced, but only while the writer has the
    file open: the writer alone knows whether it may be trusted. Errors are SQLite's own."""

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
