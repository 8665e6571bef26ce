"""Opening a spool that may be damaged: keep what can be read, set the rest aside, count it.

Three things are looked at before the file is used. Does SQLite believe the whole log? If not, the
commits it would forget are carved out of the log and put back. Is every page what it should be
(`integrity_check`), and are the properties sealed? If not, the file is moved to
`quarantine/<time>/`, and what can be carved out of its pages goes into a new file with a new epoch:
which batch central had applied can no longer be told for sure, so what is kept is delivered at
least once. A whole file of another format is refused and left as it is.

A crash while a file is replaced leaves either the old file in its place, or the new one beside it
under `rescued.ready`: the next start goes on from there.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from kit.http.logs import fields
from sidecar.spool import properties, quarantine, schema, settling
from sidecar.spool.ballast import ReserveFile
from sidecar.spool.carving import Carver, add_unknown
from sidecar.spool.entry import WriteRecord
from sidecar.spool.log import Log, WalIndex, write_again
from sidecar.spool.quarantine import Aside

logger = logging.getLogger(__name__)

SEQ_GAP = 1_000_000
"""Numbers skipped after a crash or damage, so that none that was lost is ever given again."""
_READY = "rescued.ready"


@dataclass(frozen=True, slots=True)
class RecoveryReport:
    """What opening found. `lost_count` counts entries known to be unreadable."""

    salvaged: bool = False
    seq_leap: int = 0
    """Numbers to skip: a file not closed in order may have lost its last without a trace."""
    kept_count: int = 0
    lost_count: int = 0
    ended: tuple[WriteRecord, ...] = ()
    """Damaged entries that are known by number: they end as refused."""


def open_spool(
    directory: Path, *, distrust: bool = False, gmtime: Callable[[], time.struct_time] = time.gmtime
) -> tuple[sqlite3.Connection, WalIndex, RecoveryReport]:
    """The spool's connection, whatever was found. Raises sqlite3.Error and OSError only for a
    volume that cannot be used.

    `distrust` salvages even a file that looks whole: its damage was met at work. The log's index
    is the caller's to close, after the connection and all others.
    """
    path = directory / schema.FILE_NAME
    aside = Aside(directory, gmtime)
    if (directory / _READY).exists():
        aside.resume()
        _replace(directory, aside)
    connection: sqlite3.Connection | None = None
    index = WalIndex(path)
    fault = "damage was met at work" if distrust else _fault_of_header(path)
    try:
        if fault is None:
            log = Log(path)
            if log.frames:
                write_again(path)
            connection = schema.connect(path)
            is_blank = schema.is_blank(connection)
            believed = index.frame_count
            if is_blank and log.has_unreachable_commits(believed):
                fault = "log damaged at its beginning"
            else:
                schema.settle_in(connection)
                fault = fault_of(connection)
        if connection is not None and fault is None:
            salvaged = RecoveryReport(seq_leap=SEQ_GAP if log.frames else 0)
            if log.has_unreachable_commits(believed):
                salvaged = _add_forgotten(connection, path, log, believed, aside)
            ended = _set_aside_malformed(connection, directory)
            return connection, index, replace(salvaged, ended=tuple(ended))
    except sqlite3.DatabaseError as error:
        if not _speaks_of_the_file(error):
            _close(connection, index)
            raise
        fault = str(error)
    except BaseException:
        _close(connection, index)
        raise
    try:
        salvaged = _rescue(directory, path, aside, fault or "unknown")
    finally:
        _close(connection, index)
    connection = schema.connect(path)
    schema.settle_in(connection)
    return connection, index, salvaged


def _fault_of_header(path: Path) -> str | None:
    """What SQLite would not complain of: it makes a new database of an empty file and deletes its
    log, and takes a file of an unknown write version for one that may only be read."""
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        head = b""
    if not head:
        return "cut off" if Log(path).frames else None
    magic, page_bytes, versions, rest = head[:16], head[16:18], head[18:20], head[20:24]
    is_ours = (
        magic == b"SQLite format 3\0"
        and int.from_bytes(page_bytes) == schema.PAGE_BYTES
        and versions in {b"\1\1", b"\2\2"}
        and rest == b"\0\x40\x20\x20"
    )
    return None if is_ours else "header damaged"


def fault_of(connection: sqlite3.Connection) -> str | None:
    """Why the file cannot be used as it is. Documents are checked by checksum when they are cut."""
    (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        return str(found)
    version = schema.version_of(connection)
    has_shape = schema.shape(connection) == schema.expected_shape()
    if version == schema.FORMAT_VERSION:
        if not has_shape:
            return "tables damaged"
        return None if properties.is_sealed(properties.read(connection)) else "properties damaged"
    if has_shape and properties.is_sealed(properties.read(connection)):
        return "format number damaged"
    raise schema.UnknownFormat(version)


def _speaks_of_the_file(error: sqlite3.DatabaseError) -> bool:
    """Whether the file's contents are at fault, rather than the volume it is on."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in {0, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR} or (
        code in {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG}
    )


def _close(connection: sqlite3.Connection | None, index: WalIndex) -> None:
    if connection is not None:
        with suppress(sqlite3.Error):
            connection.close()
    index.close()


def _set_aside_malformed(connection: sqlite3.Connection, directory: Path) -> list[WriteRecord]:
    connection.execute("BEGIN IMMEDIATE")
    ended = settling.set_aside(
        connection,
        settling.malformed(connection),
        lambda rows: quarantine.keep_rows(directory, rows),
    )
    connection.execute("COMMIT")
    return ended


def _add_forgotten(
    connection: sqlite3.Connection, path: Path, log: Log, believed: int, aside: Aside
) -> RecoveryReport:
    """Puts back what the log holds beyond the point up to which SQLite believes it."""
    kept_log = aside.copy(path.with_name(path.name + schema.WAL_SUFFIX))
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as found:
        schema.create(found)
        carver = Carver(found)
        found.execute("BEGIN")
        carver.carve(path, log, frames_from=believed + 1)
        connection.execute("BEGIN IMMEDIATE")
        kept = add_unknown(connection, found)
        properties.raise_top(connection, max(carver.top_seq, *carver.unread, 0))
        connection.execute("COMMIT")
        found.execute("COMMIT")
    # What was not written over would be found again, as damage, at each start.
    schema.checkpoint_truncate(connection)
    logger.error(
        "damaged log: what it still held was put back",
        extra=fields(
            quarantine=str(kept_log) if kept_log is not None else None,
            forgotten_frames=sum(frame.number > believed for frame in log.frames),
            kept_count=kept,
            unreadable_seqs=sorted(carver.unread),
        ),
    )
    return RecoveryReport(seq_leap=SEQ_GAP, kept_count=kept, lost_count=len(carver.unread))


def _rescue(directory: Path, path: Path, aside: Aside, fault: str) -> RecoveryReport:
    """Puts a new file with what could be read in the place of the damaged one."""
    aside.make_room()
    ReserveFile(directory).release(0)  # what waits is worth more
    unfinished = directory / "rescued.sqlite3"
    for suffix in ("", schema.WAL_SUFFIX, schema.SHM_SUFFIX, "-journal"):
        unfinished.with_name(unfinished.name + suffix).unlink(missing_ok=True)
    with closing(schema.connect(unfinished)) as target:
        schema.settle_in(target)
        carver = Carver(target)
        target.execute("BEGIN IMMEDIATE")
        carver.carve(path, Log(path))
        top_seq = max(carver.top_seq, *carver.unread, 0)
        if carver.spool_id is not None:
            properties.write(target, spool_id=carver.spool_id)
        properties.write(target, top_seq=top_seq)
        target.execute("COMMIT")
        kept = carver.entry_count
        target.execute("PRAGMA journal_mode = DELETE")  # one whole file, ready to be renamed
    is_blank = carver.spool_id is None and not (kept or carver.unread)
    lost = len(carver.unread) or int(is_blank)  # how many were in it nobody can know: one at least
    _sync(unfinished)
    unfinished.rename(directory / _READY)
    _sync(directory)
    _replace(directory, aside)
    logger.error(
        "damaged spool set aside",
        extra=fields(
            fault=fault,
            quarantine=str(aside.folder),
            kept_count=kept,
            lost_count=lost,
            unreadable_seqs=sorted(carver.unread)[:100],
        ),
    )
    return RecoveryReport(salvaged=True, seq_leap=SEQ_GAP, kept_count=kept, lost_count=lost)


def _replace(directory: Path, aside: Aside) -> None:
    """The log goes first: a new file must never be opened with the old one's log."""
    for suffix in (schema.WAL_SUFFIX, schema.SHM_SUFFIX, ""):
        aside.take(directory / (schema.FILE_NAME + suffix))
    _sync(directory)
    (directory / _READY).rename(directory / schema.FILE_NAME)
    _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
