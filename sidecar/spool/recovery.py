"""Opening a spool that may be damaged: keep what can be read, quarantine the rest, count it.

# What is checked

1. The log: does SQLite see all its commits (`wal`)? If not, the entries, outcomes and bindings that
   only the unreachable commits have are added to the file. The file itself stays in use.
2. The file: `integrity_check`, the tables, the checksum of `meta`. If one fails, all rows that can
   be read (`damaged_file`) are copied into a new file with a new epoch, and the damaged file is
   quarantined. Which batch central has applied can no longer be known, so the copied writes are
   delivered at least once.
3. The format: a whole file of another format is refused and left as it is.

# Crashes

    spool.sqlite3 ----> damaged rows left out ----> rescue.sqlite3     filled (`damaged_file`)
                                                         |
                                                    rescued.ready      complete, synced
                                                         |             damaged file to quarantine/
                                                    spool.sqlite3

A crash during recovery leaves either the damaged file in place, or the complete new one beside it
as `rescued.ready`: the next start continues from there.
"""

import json
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kit.http.logs import fields
from sidecar.spool import batches, bindings, damaged_file, schema
from sidecar.spool.capacity import ReserveFile
from sidecar.spool.entry import WriteRecord
from sidecar.spool.wal import WalFile, WalIndex, rewrite_and_sync

logger = logging.getLogger(__name__)

SEQ_GAP = 1_000_000
"""Numbers skipped after a crash or damage, so that none that was lost is ever assigned again."""
QUARANTINE = "quarantine"
MAX_FOLDERS = 1
"""Each may be as large as the spool, and the volume is made for two of them (a pod whose emptyDir
grows beyond its limit is evicted, spool and all)."""
ROWS_FILE = "entries.jsonl"
ROWS_MAX_BYTES = 16 * 1024 * 1024
_READY, _NEW = "rescued.ready", "rescue.sqlite3"


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What opening found. `lost_count` counts entries known to be unreadable."""

    is_rebuilt: bool = False
    seq_gap: int = 0
    """Numbers to skip: a file that was not closed may have lost its last without a trace."""
    lost_count: int = 0
    ended: tuple[WriteRecord, ...] = ()
    """Corrupted entries with a known number: they end as refused."""


def open_or_recover(
    directory: Path,
    *,
    is_suspect: bool = False,
    is_replacement: bool = False,
    wall_clock: Callable[[], float] = time.time,
) -> tuple[sqlite3.Connection, WalIndex, RecoveryReport]:
    """The spool's connection, whatever was found. The caller closes the index of the log after the
    connection and all others.

    `is_suspect` rebuilds even a file that looks whole: corruption was found in use. With
    `is_replacement` a new file is known to lack the bindings of one that was lost. Raises
    `UnknownFormat`, and sqlite3.Error and OSError for a volume that cannot be used.
    """
    path = directory / schema.FILE_NAME
    now_ms = int(wall_clock() * 1000)
    folder = QuarantineFolder(directory, now_ms)
    if (directory / _READY).exists():
        folder.resume()
        _replace(directory, folder)
    index = WalIndex(path)
    wal = WalFile(path)
    has_gap, valid_frames = False, 0
    connection: sqlite3.Connection | None = None
    fault = "corruption was found in use" if is_suspect else _header_fault(path)
    try:
        if fault is None:
            if wal.frames:
                rewrite_and_sync(path)
            connection = schema.connect(path)
            is_empty = schema.is_empty(connection)
            valid_frames = index.valid_frames
            has_gap = wal.has_unreachable_commits(valid_frames)
            if is_empty and has_gap:
                fault = "log damaged at its beginning"
            else:
                schema.configure(connection, bindings_lost_at_ms=now_ms if is_replacement else None)
                fault = fault_of(connection)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if not _is_about_contents(error):
            _abandon(connection, path, index)
            raise
        fault = str(error)
    except BaseException:
        _abandon(connection, path, index)
        raise
    report = RecoveryReport(seq_gap=SEQ_GAP if wal.frames else 0)
    if connection is None or fault is not None or has_gap:
        _abandon(connection, path, index)
        if fault is not None:
            report = _rebuild(directory, path, folder, fault, now_ms)
        else:
            frames = wal.acknowledged().frames
            is_all_there = all(frame.number <= valid_frames for frame in frames)
            lost_at_ms = None if is_all_there else now_ms
            report = _restore_unreachable(path, wal, folder, lost_at_ms)
        connection = schema.connect(path)
        schema.configure(connection)
    ended = _end_malformed(connection, directory, now_ms)
    return connection, index, replace(report, ended=tuple(ended))


def _abandon(connection: sqlite3.Connection | None, path: Path, index: WalIndex) -> None:
    """Closes the connection and leaves the log as it is. Closed last, the writing connection would
    write it back and delete it; the second one, which cannot write, closes after it."""
    if connection is not None:
        guard = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        with suppress(sqlite3.Error, UnicodeDecodeError):
            guard.execute("SELECT 1 FROM sqlite_schema").fetchone()
        with suppress(sqlite3.Error):
            connection.close()
        guard.close()
    index.close()


# Quarantine: evidence of damage, kept in a folder beside the file


def keep_rows(directory: Path, rows: list[tuple[Any, ...]]) -> None:
    """Appends corrupted entries as they are to `quarantine/entries.jsonl`."""
    logger.error("corrupted entries quarantined", extra=fields(seqs=[row[0] for row in rows]))
    file = directory / QUARANTINE / ROWS_FILE
    try:
        file.parent.mkdir(exist_ok=True)
        if file.exists() and file.stat().st_size > ROWS_MAX_BYTES:
            file.unlink()
        with file.open("a") as opened:
            for row in rows:
                opened.write(json.dumps([_printable(value) for value in row]) + "\n")
    except OSError:
        logger.exception("corrupted entries could not be kept")


def _printable(value: Any) -> Any:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


class QuarantineFolder:
    """The folder of one recovery: `quarantine/<time>-<n>/`, made on first use. Older ones are
    deleted for it."""

    def __init__(self, directory: Path, now_ms: int) -> None:
        self._quarantine = directory / QUARANTINE
        self._now_ms = now_ms
        self._folder: Path | None = None

    def resume(self) -> None:
        """Continues with the newest folder, if there is one, after a crash."""
        self._folder = max(self._folders(), default=None)

    @property
    def folder(self) -> Path:
        if self._folder is None:
            self.delete_older()
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(self._now_ms // 1000))
            number = 0
            while (folder := self._quarantine / f"{stamp}-{number}").exists():
                number += 1
            folder.mkdir(parents=True)
            self._folder = folder
        return self._folder

    def move(self, file: Path) -> None:
        if file.exists():
            file.rename(self.folder / file.name)

    def copy(self, file: Path) -> Path | None:
        """The copy; None if the volume has no room for it, which waiting writes need more."""
        try:
            return Path(shutil.copy(file, self.folder / file.name))
        except OSError:
            logger.exception("damaged file could not be kept", extra=fields(file=str(file)))
            return None

    def delete_older(self) -> None:
        folders = self._folders()
        for folder in folders[: len(folders) + 1 - MAX_FOLDERS]:
            shutil.rmtree(folder, ignore_errors=True)

    def _folders(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self._quarantine.glob("*-*") if path.is_dir())


# Checks


def _header_fault(path: Path) -> str | None:
    """Damage that SQLite does not report: it makes a new database of an empty file and deletes its
    log, and takes a file of an unknown write version for a read-only one."""
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        head = b""
    if not head:
        return "cut off" if WalFile(path).frames else None
    magic, page_bytes, versions, rest = head[:16], head[16:18], head[18:20], head[20:24]
    is_intact = (
        magic == b"SQLite format 3\0"
        and int.from_bytes(page_bytes) == schema.PAGE_BYTES
        and versions in {b"\1\1", b"\2\2"}
        and rest == b"\0\x40\x20\x20"
    )
    return None if is_intact else "header damaged"


def fault_of(connection: sqlite3.Connection) -> str | None:
    """Why the file cannot be used as it is. Payloads are checked when they are cut.

    Raises `UnknownFormat`.
    """
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        return str(found)
    version = schema.version_of(connection)
    has_our_tables = schema.schema_signature(connection) == schema.expected_signature()
    if version == schema.FORMAT_VERSION:
        if not has_our_tables:
            return "tables damaged"
        return None if schema.is_meta_intact(schema.read_meta(connection)) else "meta damaged"
    if has_our_tables and schema.is_meta_intact(schema.read_meta(connection)):
        return "format number damaged"
    raise schema.UnknownFormat(version)


def _is_about_contents(error: sqlite3.DatabaseError | UnicodeDecodeError) -> bool:
    """Whether the file's contents are at fault, rather than its volume. SQLite's message may quote
    them, and be no text itself then."""
    return schema.sqlite_code(error) in {
        0,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
    }


def _end_malformed(
    connection: sqlite3.Connection, directory: Path, now_ms: int
) -> list[WriteRecord]:
    connection.execute("BEGIN IMMEDIATE")
    if bindings.forget_malformed(connection):
        schema.write_meta(connection, bindings_lost_at_ms=now_ms)
    ended = batches.end_corrupted(
        connection,
        batches.malformed(connection),
        lambda rows: keep_rows(directory, rows),
    )
    connection.execute("COMMIT")
    return ended


# Recovery


def _restore_unreachable(
    path: Path, wal: WalFile, folder: QuarantineFolder, bindings_lost_at_ms: int | None
) -> RecoveryReport:
    """Adds to the file what only the unreachable commits of its log have."""
    kept_log = folder.copy(path.with_name(path.name + schema.WAL_SUFFIX))
    ReserveFile(path.parent).release(0)  # the copy needs the space more
    # Not a link: SQLite takes two names of one file for one database, and its index for both.
    acknowledged = damaged_file.max_acknowledged_seq(path, wal, shutil.copyfile)
    with (
        damaged_file.readable_copy(path, wal, shutil.copyfile) as source,
        closing(schema.connect(path)) as target,
    ):
        schema.configure(target)
        target.execute("BEGIN IMMEDIATE")
        found = damaged_file.copy_rows(source, target)
        if bindings_lost_at_ms is not None:
            schema.write_meta(target, bindings_lost_at_ms=bindings_lost_at_ms)
        target.execute("COMMIT")
        # Frames that are not overwritten would be found again, as damage, at each start.
        schema.checkpoint_truncate(target)
    logger.error(
        "damaged log: commits behind the damage were restored",
        extra=fields(quarantine=str(kept_log) if kept_log is not None else None, **found.summary()),
    )
    lost_count = sum(seq <= acknowledged for seq in found.lost)
    return RecoveryReport(seq_gap=SEQ_GAP, lost_count=lost_count)


def _rebuild(
    directory: Path, path: Path, folder: QuarantineFolder, fault: str, now_ms: int
) -> RecoveryReport:
    """Replaces the damaged file by a new one with all rows that can be read."""
    folder.delete_older()
    ReserveFile(directory).release(0)  # waiting writes need the space more
    damaged_file.delete(directory / _NEW)
    with (
        closing(schema.connect(directory / _NEW)) as target,
        damaged_file.readable_copy(path, WalFile(path), damaged_file.link) as source,
    ):
        schema.configure(target, bindings_lost_at_ms=now_ms)
        target.execute("BEGIN IMMEDIATE")
        found = damaged_file.copy_rows(source, target)
        schema.write_meta(target, max_seq=found.max_seq, **damaged_file.identity(source))
        target.execute("COMMIT")
        if found.corrupted:
            keep_rows(directory, found.corrupted)
        target.execute("PRAGMA journal_mode = DELETE")  # one whole file, ready to be renamed
    # A loss that leaves no number behind counts as one.
    lost_count = len(found.lost) or int(not found.is_complete)
    _sync(directory / _NEW)
    (directory / _NEW).rename(directory / _READY)
    _sync(directory)
    _replace(directory, folder)
    logger.error(
        "damaged spool rebuilt",
        extra=fields(
            fault=fault,
            quarantine=str(folder.folder),
            lost_count=lost_count,
            **found.summary(),
        ),
    )
    # Two gaps: the last one that was skipped may be among what was lost.
    return RecoveryReport(is_rebuilt=True, seq_gap=2 * SEQ_GAP, lost_count=lost_count)


def _replace(directory: Path, folder: QuarantineFolder) -> None:
    """The log goes first: a new file must never be opened with the old one's log."""
    for suffix in (schema.WAL_SUFFIX, schema.SHM_SUFFIX, ""):
        folder.move(directory / (schema.FILE_NAME + suffix))
    _sync(directory)
    (directory / _READY).rename(directory / schema.FILE_NAME)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
