"""Reading a damaged spool: by SQLite alone, from a copy of its log that has no gaps.

The copied log ends with a first page (header and schema) taken from a new spool: it is the same in
each. The file itself gets a second name, so that SQLite takes the copied log for its own:

    spool.sqlite3-wal                                     spool.sqlite3
         | all frames, new checksums; then a first page       | linked or copied
         v                                                    v
    damaged.sqlite3-wal                                  damaged.sqlite3
         +--------- SELECT, range by range -> checksums ------+---> rows for the target

A table is read from both ends up to the damage; rows between two damaged pages are looked up by the
keys in the table's index. A row counts only if its own checksum matches.
"""

import math
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sidecar.spool import batches, bindings, schema
from sidecar.spool.entry import coalesced_checksum, record_checksum
from sidecar.spool.wal import WalFile

MAX_PLAUSIBLE_SEQ = 2**53
_DAMAGED = "damaged.sqlite3"
_SUFFIXES = ("", schema.WAL_SUFFIX, schema.SHM_SUFFIX, "-journal")
_BOOT = re.compile(r"\d{1,18} .+")
_SPOOL_ID = re.compile(r"[0-9a-f]{12}")


def delete(path: Path) -> None:
    """Deletes a database with its log, if there is one."""
    for suffix in _SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextmanager
def readable_copy(
    path: Path, wal: WalFile, copy_file: Callable[[Path, Path], object]
) -> Iterator[sqlite3.Connection]:
    """A connection that reads the file as far as SQLite can. It changes nothing."""
    first_page, min_pages = _first_page()
    copy = path.with_name(_DAMAGED)
    delete(copy)
    size = path.stat().st_size if path.exists() else 0
    try:
        if size:
            copy_file(path, copy)
        else:
            copy.write_bytes(first_page)  # SQLite would delete the log of an empty file
        pages = max(min_pages, -(-size // schema.PAGE_BYTES))
        wal.copy_without_gaps(copy, pages=pages, first_page=first_page)
        with closing(schema.connect_read_only(copy)) as source:
            yield source
    finally:
        delete(copy)


def link(path: Path, copy: Path) -> None:
    try:
        os.link(path, copy)
    except OSError:  # a file system without links
        shutil.copyfile(path, copy)


def _first_page() -> tuple[bytes, int]:
    """The first page of a new spool: the header, and the schema with the tables' root pages, which
    are the same in each. And how many pages it has."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        schema.configure(connection)
        new = connection.serialize()
    page = bytearray(new[: schema.PAGE_BYTES])
    page[18:20] = b"\2\2"  # a file with a log
    page[24:32] = bytes(8)  # the size is that of the log's last commit
    return bytes(page), len(new) // schema.PAGE_BYTES


def max_acknowledged_seq(
    path: Path, wal: WalFile, copy_file: Callable[[Path, Path], object]
) -> float:
    """A number that no acknowledged entry is above, unless the log's last commit is intact: if that
    is unsure, it may have been torn before it was acknowledged. Infinity if there is none."""
    if not wal.frames or not wal.is_last_unsure:
        return math.inf
    try:
        with readable_copy(path, wal.acknowledged(), copy_file) as source:
            (seq,) = source.execute(
                "SELECT max((SELECT coalesce(max(seq), 0) FROM entries), (SELECT coalesce(max(seq),"
                " 0) FROM entries INDEXED BY entries_by_execution), (SELECT coalesce(max(seq), 0)"
                " FROM settled))"
            ).fetchone()
    except sqlite3.DatabaseError:
        return math.inf
    return float(seq)


class _Table(NamedTuple):
    name: str
    columns: str
    key: str
    keys_by_index: str | None = None


_ENTRIES = _Table(
    "entries",
    schema.ENTRY_COLUMNS,
    "seq",
    "SELECT seq FROM entries INDEXED BY entries_by_execution ORDER BY execution_id {0}, seq {0}",
)
_SETTLED = _Table("settled", f"position, {schema.SETTLED_COLUMNS}", "position")
_COALESCED = _Table("coalesced", "seq, chain_id, checksum", "seq")
_BINDINGS = _Table("bindings", schema.BINDING_COLUMNS, "execution_id")
_GRANTS = _Table("grants", schema.GRANT_COLUMNS, "token_digest {0}, execution_id")
_META = _Table("meta", "name, value", "name")


@dataclass
class RecoveredRows:
    """Rows that were copied, and what is known of those that were not."""

    kept_count: int = 0
    max_seq: int = 0
    """The highest number seen anywhere."""
    lost: set[Any] = field(default_factory=set)
    """Numbers of entries that exist and cannot be read."""
    corrupted: list[tuple[Any, ...]] = field(default_factory=list)
    """Entries as they were read, with a checksum that does not match."""
    is_complete: bool = True
    """Whether every row of `entries` was read."""

    def summary(self) -> dict[str, Any]:
        return {"kept_count": self.kept_count, "unreadable_seqs": sorted(self.lost)[:100]}


def _rows(
    source: sqlite3.Connection, table: _Table, found: RecoveredRows | None = None
) -> Iterator[tuple[Any, ...]]:
    """All rows that SQLite can read: from both ends up to damage, then by the index's keys."""
    found = found or RecoveredRows()
    query = f"SELECT {table.columns} FROM {table.name} NOT INDEXED"  # noqa: S608
    seen: set[Any] = set()
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.DatabaseError):
            for row in source.execute(f"{query} ORDER BY {table.key.format(order)} {order}"):
                key = row[:2] if table is _GRANTS else row[0]
                if key not in seen:
                    seen.add(key)
                    yield row
            break
    else:
        found.is_complete = False
    if table.keys_by_index is None:
        return
    # Also after a scan without an error: a page whose pointers are damaged hides rows.
    for order in ("ASC", "DESC"):
        with suppress(sqlite3.DatabaseError):
            for (key,) in source.execute(table.keys_by_index.format(order)):
                if key in seen:
                    continue
                seen.add(key)
                rows = []
                with suppress(sqlite3.DatabaseError):
                    rows = source.execute(f"{query} WHERE {table.key} = ?", (key,)).fetchall()
                yield from rows
                if not rows:
                    found.lost.add(key)
            return


def copy_rows(source: sqlite3.Connection, target: sqlite3.Connection) -> RecoveredRows:
    """Adds to `target` what it does not know: outcomes, then entries, then replaced writes.

    The batch in flight of `target` stays as it is. A power failure may have torn its settling,
    which is not synced, and with a part of its outcomes it could not be sent again unchanged.
    """
    found = RecoveredRows()
    in_flight = {seq for (seq,) in target.execute("SELECT seq FROM in_flight")}
    for _, *record in sorted(_rows(source, _SETTLED), key=lambda row: row[0]):
        if _is_intact_record(record):
            found.max_seq = max(found.max_seq, record[0])
            if record[0] not in in_flight:
                target.execute(
                    f"INSERT OR IGNORE INTO settled ({schema.SETTLED_COLUMNS})"  # noqa: S608
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    record,
                )
                target.execute("DELETE FROM entries WHERE seq = ?", (record[0],))
    for row in _rows(source, _ENTRIES, found):
        if batches.entry_of_row(row) is None:
            found.corrupted.append(row)
            found.lost.add(row[0])
            continue
        found.max_seq = max(found.max_seq, row[0])
        found.kept_count += target.execute(
            f"INSERT INTO entries ({schema.ENTRY_COLUMNS}) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?"  # noqa: S608
            " WHERE NOT EXISTS (SELECT 1 FROM entries WHERE seq = ?1 UNION SELECT 1 FROM settled"
            " WHERE seq = ?1 UNION SELECT 1 FROM coalesced WHERE seq = ?1)",
            row,
        ).rowcount
    for seq, chain_id, stored in _rows(source, _COALESCED):
        if stored == _or_none(coalesced_checksum, seq, chain_id):
            found.lost.add(seq)  # unless its replacement was found, too
            is_added = target.execute(
                "INSERT OR IGNORE INTO coalesced SELECT ?1, ?2, ?3 WHERE EXISTS"
                " (SELECT 1 FROM entries WHERE chain_id = ?2 AND seq <> ?1) AND NOT EXISTS"
                " (SELECT 1 FROM settled WHERE seq = ?1)",
                (seq, chain_id, stored),
            ).rowcount
            if is_added:
                target.execute("DELETE FROM entries WHERE seq = ?", (seq,))
    for table in (_BINDINGS, _GRANTS):
        for row in _rows(source, table):
            if table is _BINDINGS:
                older = "DELETE FROM bindings WHERE execution_id = ? AND generation < ?"
                target.execute(older, (row[0], row[-1]))
            marks = ", ".join("?" * len(row))
            target.execute(f"INSERT OR IGNORE INTO {table.name} VALUES ({marks})", row)  # noqa: S608
    bindings.bump_max_generation(target)
    found.lost = {seq for seq in found.lost if isinstance(seq, int) and not _knows(target, seq)}
    plausible = (seq for seq in found.lost if seq < MAX_PLAUSIBLE_SEQ)
    found.max_seq = max(found.max_seq, 0, *plausible)
    return found


def _knows(target: sqlite3.Connection, seq: int) -> bool:
    query = (
        "SELECT 1 FROM entries WHERE seq = ?1 UNION SELECT 1 FROM settled WHERE seq = ?1"
        " UNION SELECT 1 FROM coalesced WHERE seq = ?1"
    )
    return target.execute(query, (seq,)).fetchone() is not None


def _is_intact_record(record: list[Any]) -> bool:
    return bool(record[-1] == _or_none(record_checksum, *record[:-1]))


def _or_none(checksum: Callable[..., int], *values: Any) -> int | None:
    """The checksum; None for values of types that are never stored."""
    try:
        return checksum(*values)
    except (TypeError, ValueError, AttributeError):
        return None


def identity(source: sqlite3.Connection) -> dict[str, str]:
    """The spool's id and the computing unit's boot, as far as they can be read."""
    meta = {name: value for name, value in _rows(source, _META) if isinstance(value, str)}
    patterns = {"spool_id": _SPOOL_ID, schema.BOOT: _BOOT}
    return {
        name: meta[name]
        for name, pattern in patterns.items()
        if name in meta and pattern.fullmatch(meta[name])
    }
