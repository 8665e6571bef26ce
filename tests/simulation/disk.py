"""The spool's files on a disk that may lose what was not synced, and commits as steps of the loop.

The files are real SQLite files on tmpfs. After each step of the writer the disk remembers how long
the log is if that step has synced it: a synced commit, a checkpoint, the rewriting of a log that
was found. A killed sidecar leaves its files as they are; a power cut leaves the log as it was
synced, perhaps with some of the sectors that were written since then (`crashing/volume.py`). Either
way the next sidecar finds a copy in a folder of its own, which the dead one cannot touch.

What is not modelled here, and is in tests/journeys/crashing: a kill or a power cut within a sync
or a checkpoint, a sync that fails, a disk that lies.
"""

import asyncio
import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.spool.fault_injection import FaultInjector
from sidecar.spool.schema import FILE_NAME, SHM_SUFFIX, WAL_SUFFIX
from sidecar.spool.writer import GroupCommitWriter, Opener, T
from tests.journeys.crashing.volume import age_by_a_boot, mixed
from tests.simulation.virtual_loop import Killed

LOG, INDEX = FILE_NAME + WAL_SUFFIX, FILE_NAME + SHM_SUFFIX
NAMES = (FILE_NAME, LOG)
_SALTS = slice(16, 24)  # of the log's header
_BACKFILLED_AT = 96  # nBackfill in the index, behind its two headers


class Volume:
    """One sidecar's volume through its lives."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder = folder
        self._chance = chance
        self._generation = 0
        self._synced = LogState((b"", b""), 0)
        self._sync_count = 0
        self.directory.mkdir(parents=True)

    @property
    def _directory_name(self) -> str:
        return f"{self._folder}/{self._generation}"

    @property
    def directory(self) -> Path:
        return Path(self._directory_name)

    def record_step(self, sync_count: int, *, is_new: bool) -> None:
        """After a step of the writer: remembers how much of the log is synced now.

        A checkpoint syncs the log, writes the file and syncs that. After one the log starts over,
        with other salts, and all that it had is in the file.
        """
        log = self._log_state()
        is_checkpointed = log.checkpoint != self._synced.checkpoint
        if is_new or sync_count != self._sync_count or is_checkpointed:
            self._synced, self._sync_count = log, sync_count

    def crash(self, *, power_lost: bool) -> None:
        """From now on `directory` is what the next start finds."""
        found = {path.name: path.read_bytes() for path in map(self._path, NAMES) if path.exists()}
        log = found.get(LOG)
        if power_lost and log is not None:
            is_same_log = log[_SALTS] == self._synced.checkpoint[0]
            synced = log[: self._synced.size] if is_same_log else b""
            loss = self._chance.choice([1.0, 1.0, 0.5])
            found[LOG] = mixed(synced, log, loss, self._chance)
        self._generation += 1
        self.directory.mkdir()
        for name, octets in found.items():
            self._path(name).write_bytes(octets)
            if power_lost:
                age_by_a_boot(self._path(name))
        self._synced, self._sync_count = self._log_state(), 0

    def _path(self, name: str) -> Path:
        return Path(self._directory_name, name)

    def _log_state(self) -> "LogState":
        salts, backfilled, size = b"", b"", 0
        try:
            with open(f"{self._directory_name}/{LOG}", "rb") as log:  # noqa: PTH123 (each commit)
                salts = log.read(32)[_SALTS]
                size = log.seek(0, 2)
            with open(f"{self._directory_name}/{INDEX}", "rb") as index:  # noqa: PTH123
                index.seek(_BACKFILLED_AT)
                backfilled = index.read(4)
        except FileNotFoundError:
            pass
        return LogState((salts, backfilled), size)


@dataclass(frozen=True)
class LogState:
    checkpoint: tuple[bytes, bytes]
    """Salts, and how many frames are in the file: both change with a checkpoint only."""
    size: int


class SteppedWriter(GroupCommitWriter):
    """The real writer without its thread: each group is committed when the loop gets to it."""

    def __init__(
        self,
        open_file: Opener,
        *,
        faults: FaultInjector,
        volume: Volume,
        latency_s: Callable[[], float],
    ) -> None:
        super().__init__(open_file, faults=faults)
        self._volume = volume
        self._latency_s = latency_s
        self._is_scheduled = False
        self.is_dead = False

    def start(self) -> None:
        """No thread."""

    def submit(
        self,
        run: Callable[[sqlite3.Connection], T],
        on_commit: Callable[[T], Any] | None = None,
        *,
        outside_transaction: bool = False,
        needs_sync: bool = True,
    ) -> "asyncio.Future[Any]":
        future = super().submit(
            run, on_commit, outside_transaction=outside_transaction, needs_sync=needs_sync
        )
        self._schedule()
        return future

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
            while self.commit_next():
                pass
            self.close_file()

    def _schedule(self) -> None:
        if not self._is_scheduled and not self.is_dead:
            self._is_scheduled = True
            self._loop.call_later(self._latency_s(), self._step)

    def _step(self) -> None:
        self._is_scheduled = False
        if self.is_dead or self._closed:
            return
        was_open = self._opened is not None
        try:
            self.commit_next()
        except Killed:
            return
        self._volume.record_step(self.sync_count, is_new=not was_open)
        if self._next_task is not None or not self._inbox.empty():
            self._schedule()

    def drop(self) -> None:
        """Closes the dead process's file, which nobody will look at again."""
        self._abandon()
