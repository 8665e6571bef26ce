"""The spool as operators see it: read at any time, and a write given up while it is stopped.

Reading changes nothing and keeps nobody waiting: each query is a short read, beside which the
sidecar goes on committing. A stopped spool is read as it is, its log included.

A write that nothing on the way to central lets pass (a proxy's limit, a row that stays locked)
holds up the writes behind it. Only an operator can decide that it is to be given up.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from sidecar.spool import batches, history, recovery, schema
from sidecar.spool.entry import (
    Priority,
    WriteRecord,
    WriteState,
    seq_of_write_id,
)
from sidecar.spool.lock import SpoolLock, is_held
from sidecar.spool.queue_index import IndexSnapshot

PAGE_ROWS = 500
"""Rows of one query. A longer one would keep the log from being written back."""


class NoSpool(Exception):
    """There is no spool in the directory."""


class Unreadable(Exception):
    """The file cannot be read as a spool."""


@dataclass(frozen=True, slots=True)
class WriteLine:
    """One write, as a list shows it. Sizes and times are known of waiting entries only."""

    write_id: str
    execution_id: int
    user_id: int
    op: str
    state: str
    size_bytes: int | None = None
    made_at: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class WaitingWrite:
    """One write that waits. `made_at_ms` is by the clock of the spool that made it."""

    seq: int
    execution_id: int
    user_id: int
    op: str
    made_at_ms: int
    is_in_flight: bool


class InspectedSpool:
    """An open spool. Raises `Unreadable` where the file is damaged or of another format."""

    def __init__(self, directory: Path, connection: sqlite3.Connection) -> None:
        self.directory = directory
        self.connection = connection
        self.is_running = is_held(directory)
        path = directory / schema.FILE_NAME
        try:
            version = schema.version_of(connection)
            if version != schema.FORMAT_VERSION:
                raise Unreadable(f"{path}: {schema.UnknownFormat(version)}")
            self.meta = schema.read_meta(connection)
            self.spool_id = str(self.meta["spool_id"])
        except (sqlite3.Error, KeyError) as error:
            raise Unreadable(f"{path}: {error}") from error

    def write_id(self, seq: int) -> str:
        return f"{self.spool_id}-{seq}"

    def seq_of(self, name: str) -> int | None:
        """The number of a `write_id`, or the number itself."""
        return seq_of_write_id(name, self.spool_id, allow_number=True)

    def summary(self) -> dict[str, Any]:
        count = self.connection.execute(
            "SELECT (SELECT count(*) FROM entries), (SELECT count(*) FROM coalesced),"
            " (SELECT count(*) FROM in_flight), (SELECT count(*) FROM settled)"
        ).fetchone()
        return {
            "spool_id": self.spool_id,
            "running": self.is_running,
            "epoch": self.meta["epoch"],
            "last_batch": self.meta["batch"],
            "waiting": count[0],
            "waiting_coalesced": count[1],
            "in_flight": count[2],
            "settled_kept": count[3],
        }

    def last_waiting_seq(self) -> int:
        """The number of the newest write that waits; 0 if none does."""
        (seq,) = self.connection.execute("SELECT coalesce(max(seq), 0) FROM entries").fetchone()
        return int(seq)

    def count_waiting(self, last_seq: int) -> int:
        """How many writes up to this number wait."""
        (count,) = self.connection.execute(
            "SELECT count(*) FROM entries WHERE seq <= ?", (last_seq,)
        ).fetchone()
        return int(count)

    def newest_waiting(self, limit: int) -> list[WaitingWrite]:
        """Undamaged ones, the newest first."""
        rows = self.connection.execute(
            f"SELECT {schema.ENTRY_COLUMNS}, seq IN (SELECT seq FROM in_flight) FROM entries"  # noqa: S608
            " ORDER BY seq DESC LIMIT ?",
            (limit,),
        )
        return [
            WaitingWrite(
                row[0], row[1], row[2], row[3], _decoded(row[6])["made_at_ms"], bool(row[9])
            )
            for row in rows
            if batches.entry_of_row(row[:9]) is not None
        ]

    def waiting(self, execution_id: int | None = None) -> Iterator[tuple[Any, ...]]:
        """Rows of entries, oldest first: the nine columns as stored, and whether in flight."""
        after = -1
        while True:
            rows = self.connection.execute(
                f"SELECT {schema.ENTRY_COLUMNS}, seq IN (SELECT seq FROM in_flight) FROM entries"  # noqa: S608
                " WHERE seq > ?1 AND (?2 IS NULL OR execution_id = ?2) ORDER BY seq LIMIT ?3",
                (after, execution_id, PAGE_ROWS),
            ).fetchall()
            yield from rows
            if len(rows) < PAGE_ROWS:
                return
            after = rows[-1][0]

    def lines(self, states: set[str], execution_id: int | None) -> Iterator[WriteLine]:
        """Waiting writes, oldest first, then settled ones, newest first."""
        if states & {"durable", "in-flight"}:
            for row in self.waiting(execution_id):
                line = self._line_of_entry(row)
                if line.state in states or (line.state == "damaged" and "durable" in states):
                    yield line
        if "durable" in states:
            for record in history.coalesced_writes(self.connection, execution_id):
                yield self._line_of_record(record)
        if states & {"committed", "refused"}:
            for record in history.newest_settled(self.connection, execution_id):
                if record.state in states:
                    yield self._line_of_record(record)

    def _line_of_entry(self, row: tuple[Any, ...]) -> WriteLine:
        entry = batches.entry_of_row(row[:9])
        state = "damaged" if entry is None else "in-flight" if row[9] else "durable"
        made_at_ms = _decoded(row[6]).get("made_at_ms") if entry is not None else None
        return WriteLine(
            self.write_id(row[0]), row[1], row[2], row[3], state, len(row[6]), _time(made_at_ms)
        )

    def _line_of_record(self, record: WriteRecord) -> WriteLine:
        return WriteLine(
            self.write_id(record.seq),
            record.execution_id,
            record.user_id,
            record.op,
            record.state.value,
            problem=(record.problem or {}).get("type"),
        )

    def show(self, seq: int) -> dict[str, Any] | None:
        """All that is known of one write; None if nothing is."""
        record = history.find(self.connection, seq)
        if record is None:
            return None
        row = self.connection.execute(
            f"SELECT {schema.ENTRY_COLUMNS} FROM entries WHERE seq = ?",  # noqa: S608
            (seq,),
        ).fetchone()
        shown: dict[str, Any] = {
            "write_id": self.write_id(seq),
            "execution_id": record.execution_id,
            "user_id": record.user_id,
            "op": record.op,
            "state": record.state.value,
        }
        if row is not None:
            shown |= self._shown_entry(row)
        elif record.state is WriteState.DURABLE:
            shown["replaced_by"] = self.write_id(history.replacement_of(self.connection, seq))
        else:
            shown |= {"problem": record.problem, "removed": record.removed}
        return shown

    def _shown_entry(self, row: tuple[Any, ...]) -> dict[str, Any]:
        entry = batches.entry_of_row(row)
        place = self.connection.execute(
            "SELECT position, withdrawal = ? FROM in_flight WHERE seq = ?",
            (batches.Withdrawal.SKIP, row[0]),
        ).fetchone()
        batch = {name: self.meta[name] for name in ("epoch", "batch", "digest")}
        replaced = self.connection.execute("SELECT seq FROM coalesced WHERE chain_id = ?", row[8:9])
        return {
            "is_damaged": entry is None,
            "priority": Priority(row[4]).name.lower() if entry is not None else row[4],
            "payload": _decoded(row[6]),
            "in_flight": batch | {"position": place[0], "is_skipped": bool(place[1])}
            if place is not None
            else None,
            "replaces": [self.write_id(seq) for (seq,) in replaced],
        }

    def export(self) -> Iterator[dict[str, Any]]:
        """Waiting writes, in the order in which they have to be applied. Damaged ones say so."""
        for row in self.waiting():
            if batches.entry_of_row(row[:9]) is None:
                yield {"write_id": self.write_id(row[0]), "damaged": True, "stored": _text(row[6])}
            else:
                yield {
                    "write_id": self.write_id(row[0]),
                    "execution_id": row[1],
                    "user_id": row[2],
                    "in_flight": bool(row[9]),
                    "payload": _decoded(row[6]),
                }


@contextmanager
def inspected(directory: Path) -> Iterator[InspectedSpool]:
    """The spool in this directory. Raises `NoSpool` and `Unreadable`."""
    path = directory / schema.FILE_NAME
    if not path.exists():
        raise NoSpool(f"no {schema.FILE_NAME} in {directory}")
    # Without a log the file is complete, and opening it must not create one.
    log = path.with_name(path.name + schema.WAL_SUFFIX)
    is_static = not is_held(directory) and not (log.exists() and log.stat().st_size)
    try:
        with closing(schema.connect_read_only(path, immutable=is_static)) as connection:
            yield InspectedSpool(directory, connection)
    except sqlite3.Error as error:
        raise Unreadable(f"{path}: {error}") from error


def skip_write(directory: Path, name: str) -> list[WriteRecord]:
    """Ends a waiting write, and those that it replaced, as refused. Returns their records.

    One in flight stays durable until the next start has asked central whether it has its batch.
    `name` is a `write_id` or its number; none is returned if no such write waits. Raises `NoSpool`,
    `SpoolInUse` (a sidecar runs), and `UnknownFormat`, sqlite3.Error and OSError as at a start.
    """
    if not schema.has_spool(directory):
        raise NoSpool(f"no {schema.FILE_NAME} in {directory}")
    lock = SpoolLock(directory)
    lock.acquire()
    try:
        connection, wal_index, report = recovery.open_or_recover(directory)
        with closing(wal_index), closing(connection):
            snapshot = IndexSnapshot.of(connection)
            seq = seq_of_write_id(name, snapshot.spool_id, allow_number=True)
            if seq is None:
                return []
            connection.execute("BEGIN IMMEDIATE")
            # The next start finds a file that was closed, so the gap after a crash is kept here.
            schema.bump_max_seq(connection, snapshot.next_seq - 1 + report.seq_gap)
            records = batches.skip(connection, seq)
            connection.execute("COMMIT")
            return records
    finally:
        lock.release()


def _decoded(payload: Any) -> Any:
    try:
        return msgspec.json.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError):
        return _text(payload)


def _text(payload: Any) -> str:
    raw = payload if isinstance(payload, bytes) else str(payload).encode()
    return raw.decode(errors="backslashreplace")


def _time(made_at_ms: Any) -> str | None:
    if not isinstance(made_at_ms, int):
        return None
    made_at = datetime.fromtimestamp(made_at_ms / 1000, UTC)
    return made_at.isoformat(timespec="seconds").replace("+00:00", "Z")
