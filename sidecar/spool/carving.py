"""What can be read of a damaged spool, page by page, whatever became of its trees and its log.

Every image of every page is looked at, those of the log that SQLite no longer believes included,
and what is found goes into a whole file of our own. An entry is known by its checksum, so nothing
is taken for one that was not stored as one. Images that were written over may show an entry that
has ended since; it is taken out again as far as its end can be read, by its own record or by that
of a later write of its execution (they end in order). What is left is what waits.
"""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from sidecar.spool import properties
from sidecar.spool.entry import WriteState, checksum, merged_checksum, record_checksum
from sidecar.spool.log import Log
from sidecar.spool.pages import PageReader, Row, Value, row_at, rows_on
from sidecar.spool.schema import PAGE_BYTES

_DOCUMENT = re.compile(rb'\{"seq":(\d{1,18}),"execution_id":')
"""How every document begins. On a page whose head is damaged it shows where rows are."""
_HEAD_MAX_BYTES = 512
"""Of a row before its document: sizes, numbers, the operation's name, the merge key."""
_BOOT = re.compile(r"\d{1,18} .+")
_SPOOL_ID = re.compile(r"[0-9a-f]{12}")
_ENTRY_MARKS = "?, ?, ?, ?, ?, ?, ?, ?, ?"


@dataclass
class Carver:
    """Puts what it is shown into `target`, a new spool without entries."""

    target: sqlite3.Connection
    spool_id: str | None = None
    top_seq: int = 0
    """The highest number seen anywhere."""
    unread: set[int] = field(default_factory=set)
    """Numbers of documents that were seen, and no whole row with them."""

    def carve(self, file: Path, log: Log, *, frames_from: int = 0) -> None:
        """Reads what there is. With `frames_from`, only the log's frames from that number on."""
        newest = {frame.page_number: frame for frame in log.frames}
        with _opened(file) as main:

            def read_main(number: int) -> bytes | None:
                main.seek((number - 1) * PAGE_BYTES)
                return main.read(PAGE_BYTES) or None

            def read_page(number: int) -> bytes | None:
                if number < 1:
                    return None
                return log.image(newest[number]) if number in newest else read_main(number)

            number = 0
            while not frames_from and (page := read_main(number := number + 1)) is not None:
                self._take_page(page.ljust(PAGE_BYTES, b"\0"), number, read_page)
            for frame in log.frames:
                if frame.number >= frames_from:
                    self._take_page(log.image(frame), frame.page_number, read_page)
        self._take_out_what_ended()

    def _take_page(self, page: bytes, number: int, read_page: PageReader) -> None:
        if not any(page):
            return
        keys = set()
        for row in rows_on(page, read_page, is_first=number == 1):
            self._take(row)
            keys.add(row.key)
        for found in _rows_before_documents(page, keys, read_page):
            if isinstance(found, int):
                self.unread.add(found)
            else:
                self._take(found)

    def _take(self, row: Row) -> None:
        """Keeps the row if it is one of ours. The shapes of the tables differ."""
        key, values = row
        match values:
            case [None, int(), int(), str(), int(), _, int(), bytes(), *_] if key is not None:
                self._take_entry([key, *values[1:]])
            case [None, int(), int(), int(), str(), str(), *_] if len(values) in {8, 9}:
                self._take_record(values)
            case [None, int() as head, sealed] if key is not None:
                if sealed == merged_checksum(key, head):
                    self._insert("merged", [key, head, sealed])
            case [None, int(), int() | None, int(), str() | None, 0 | 1, int() | None] if key:
                self._insert("bindings", [key, *values[1:]])
            case [bytes(), int(), int(), int()] if key is None:
                self._insert("grants", values)
            case ["boot", str() as boot] if _BOOT.fullmatch(boot):
                properties.write(self.target, boot=boot)
            case ["spool_id", str() as spool_id] if _SPOOL_ID.fullmatch(spool_id):
                self.spool_id = spool_id

    def _take_entry(self, row: list[Value]) -> None:
        if len(row) == 9 and _is_whole_entry(row):
            self._insert("entries", row)
            self.top_seq = max(self.top_seq, int(row[0] or 0))
        elif isinstance(row[0], int):
            self.unread.add(row[0])

    def _take_record(self, values: list[Value]) -> None:
        record = values[1:8]
        sealed = record_checksum(*record)  # type: ignore[arg-type]
        if len(values) == 9 and values[8] != sealed:
            return
        if record[4] in {WriteState.COMMITTED, WriteState.REFUSED} and isinstance(record[0], int):
            self.target.execute(
                "INSERT OR REPLACE INTO settled"
                " (seq, execution_id, user_id, op, state, problem, removed, checksum)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [*record, sealed],
            )
            self.top_seq = max(self.top_seq, record[0])

    def _insert(self, table: str, values: list[Value]) -> None:
        marks = ", ".join("?" * len(values))
        self.target.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", values)  # noqa: S608

    def _take_out_what_ended(self) -> None:
        self.target.execute("DELETE FROM entries WHERE seq IN (SELECT seq FROM settled)")
        # A damaged write ends out of its turn.
        self.target.execute(
            "DELETE FROM entries WHERE seq < (SELECT max(seq) FROM settled"
            " WHERE settled.execution_id = entries.execution_id AND NOT (state = 'refused'"
            """ AND coalesce(CAST(problem AS TEXT), '') LIKE '{"type":"write-corrupted"%'))"""
        )
        # Whoever took its place may be lost: then what it said itself is the best there is.
        self.target.execute(
            "DELETE FROM merged WHERE head NOT IN"
            " (SELECT chain_id FROM entries WHERE chain_id IS NOT NULL)"
        )
        self.target.execute("DELETE FROM entries WHERE seq IN (SELECT seq FROM merged)")
        self.unread.difference_update(
            seq
            for seq in list(self.unread)
            for _ in self.target.execute(
                "SELECT 1 FROM entries WHERE seq = ?1 UNION SELECT 1 FROM settled WHERE seq = ?1"
                " UNION SELECT 1 FROM merged WHERE seq = ?1",
                (seq,),
            )
        )

    @property
    def entry_count(self) -> int:
        count: int = self.target.execute("SELECT count(*) FROM entries").fetchone()[0]
        return count


def _opened(file: Path) -> BinaryIO:
    """The file; an empty one where there is none: its log may have been left."""
    try:
        return file.open("rb")
    except FileNotFoundError:
        return BytesIO()


def _is_whole_entry(row: list[Value]) -> bool:
    seq, execution_id, user_id, op, priority, _, stored, document, _ = row
    return stored == checksum(seq, execution_id, user_id, op, priority, document)  # type: ignore[arg-type]


def _rows_before_documents(
    page: bytes, found: set[int | None], read_page: PageReader
) -> Iterator[Row | int]:
    """The rows of documents on the page to which its own table of contents does not lead.

    The number alone, where there is no row to be found.
    """
    for match in _DOCUMENT.finditer(page):
        seq = int(match[1])
        if seq in found:
            continue
        for offset in range(match.start() - 4, max(-1, match.start() - _HEAD_MAX_BYTES), -1):
            row = row_at(page, offset, read_page)
            if row is not None and row.key == seq and len(row.values) in {8, 9}:
                yield row
                break
        else:
            yield seq


def add_unknown(connection: sqlite3.Connection, found: sqlite3.Connection) -> int:
    """Brings what was found to a whole file: ends that it does not know of, then entries, then
    whose place they took.

    The batch in flight stays as it is. A power cut may have torn its answer, which is not synced,
    and with a part of it the batch could not be sent again unchanged. Answers how many entries
    the file did not know.
    """
    settled = "seq, execution_id, user_id, op, state, problem, removed, checksum"
    in_flight = {seq for (seq,) in connection.execute("SELECT seq FROM in_flight")}
    for row in found.execute(f"SELECT {settled} FROM settled ORDER BY position"):  # noqa: S608
        if row[0] in in_flight:
            continue
        connection.execute(
            f"INSERT OR IGNORE INTO settled ({settled}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            row,
        )
        connection.execute("DELETE FROM entries WHERE seq = ?", (row[0],))
    count = 0
    for row in found.execute("SELECT * FROM entries ORDER BY seq"):
        count += connection.execute(
            f"INSERT INTO entries SELECT {_ENTRY_MARKS} WHERE NOT EXISTS"  # noqa: S608
            " (SELECT 1 FROM entries WHERE seq = ?1 UNION SELECT 1 FROM settled WHERE seq = ?1"
            " UNION SELECT 1 FROM merged WHERE seq = ?1)",
            row,
        ).rowcount
    _add_merged(connection, found)
    for table in ("bindings", "grants"):
        for row in found.execute(f"SELECT * FROM {table}"):  # noqa: S608
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)  # noqa: S608
    return count


def _add_merged(connection: sqlite3.Connection, found: sqlite3.Connection) -> None:
    """Those whose place was taken wait with the entry that took it, and not by themselves. None of
    them is in flight: what a batch has had keeps its place."""
    for row in found.execute("SELECT seq, head, checksum FROM merged ORDER BY seq"):
        is_added = connection.execute(
            "INSERT OR IGNORE INTO merged SELECT ?1, ?2, ?3 WHERE EXISTS"
            " (SELECT 1 FROM entries WHERE chain_id = ?2 AND seq <> ?1) AND NOT EXISTS"
            " (SELECT 1 FROM settled WHERE seq = ?1)",
            row,
        ).rowcount
        if is_added:
            connection.execute("DELETE FROM entries WHERE seq = ?", (row[0],))
