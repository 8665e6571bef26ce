"""Looking into a spool without touching it: beside a running sidecar, or when it is stopped.

Nothing is written, and nobody is kept waiting: each look is a short read of SQLite's, beside which
the sidecar goes on committing. A stopped spool is read as it lies there, its log included.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from sidecar.spool import history, ledger, lock, properties, schema
from sidecar.spool.carving import Carver
from sidecar.spool.entry import Priority, WriteRecord, WriteState
from sidecar.spool.log import Log, WalIndex

PAGE = 500
"""Rows of one look. A longer one would keep the log from being written back."""


class NoSpool(Exception):
    """There is no spool in the directory."""


class Unreadable(Exception):
    """The file cannot be read as a spool."""


@dataclass(frozen=True, slots=True)
class BatchSender:
    """One write, as a list shows it. Sizes and times are known of those that wait only."""

    write_id: str
    execution_id: int
    user_id: int
    op: str
    state: str
    size_bytes: int | None = None
    made_at: str | None = None
    problem: str | None = None


class Inspected:
    """A spool that is being looked at. Raises `Unreadable` where the file is damaged."""

    def __init__(
        self, directory: Path, connection: sqlite3.Connection, log_index: WalIndex
    ) -> None:
        self.directory = directory
        self.connection = connection
        self.log_index = log_index
        self.is_live = lock.is_held(directory)
        try:
            version = schema.version_of(connection)
            if version == schema.FORMAT_VERSION:
                self.properties = properties.read(connection)
                self.spool_id = str(self.properties["spool_id"])
                return
        except (sqlite3.Error, KeyError) as error:
            raise Unreadable(f"{directory / schema.FILE_NAME}: {error}") from error
        raise Unreadable(
            f"{directory / schema.FILE_NAME} has format {version}, this is a tool for format"
            f" {schema.FORMAT_VERSION}"
        )

    def write_id(self, seq: int) -> str:
        return f"{self.spool_id}-{seq}"

    def seq_of(self, name: str) -> int | None:
        """The number of a `write_id`, or the number itself."""
        spool_id, _, number = name.rpartition("-")
        known = number.isascii() and number.isdigit() and len(number) < 19
        return int(number) if known and spool_id in {"", self.spool_id} else None

    def summary(self) -> dict[str, Any]:
        count = self.connection.execute(
            "SELECT (SELECT count(*) FROM entries), (SELECT count(*) FROM merged),"
            " (SELECT count(*) FROM in_flight), (SELECT count(*) FROM settled)"
        ).fetchone()
        return {
            "spool_id": self.spool_id,
            "running": self.is_live,
            "epoch": self.properties["epoch"],
            "last_batch": self.properties["batch"],
            "waiting": count[0],
            "waiting_merged": count[1],
            "in_flight": count[2],
            "settled_kept": count[3],
        }

    def waiting(self, execution_id: int | None = None) -> Iterator[tuple[Any, ...]]:
        """Rows of entries, oldest first: the nine columns as stored, and whether in flight."""
        after = -1
        while True:
            rows = self.connection.execute(
                "SELECT seq, execution_id, user_id, op, priority, coalesce_key, document, checksum,"
                " chain_id, seq IN (SELECT seq FROM in_flight) FROM entries"
                " WHERE seq > ?1 AND (?2 IS NULL OR execution_id = ?2) ORDER BY seq LIMIT ?3",
                (after, execution_id, PAGE),
            ).fetchall()
            yield from rows
            if len(rows) < PAGE:
                return
            after = rows[-1][0]

    def lines(self, states: set[str], execution_id: int | None) -> Iterator[BatchSender]:
        """Those that wait, oldest first, then those that ended, newest first."""
        if states & {"durable", "in-flight"}:
            for row in self.waiting(execution_id):
                line = self._line_of_entry(row)
                if line.state in states or (line.state == "damaged" and "durable" in states):
                    yield line
        if "durable" in states:
            yield from self._merged(execution_id)
        if states & {"committed", "refused"}:
            for record in history.newest_settled(self.connection, execution_id):
                if record.state in states:
                    yield self._line_of_record(record)

    def _merged(self, execution_id: int | None) -> Iterator[BatchSender]:
        for record in history.merged_writes(self.connection, execution_id):
            yield self._line_of_record(record)

    def _line_of_entry(self, row: tuple[Any, ...]) -> BatchSender:
        entry = ledger.entry_of_row(row[:9])
        state = "damaged" if entry is None else "in-flight" if row[9] else "durable"
        made_at_ms = _decoded(row[6]).get("made_at_ms") if entry is not None else None
        return BatchSender(
            self.write_id(row[0]), row[1], row[2], row[3], state, len(row[6]), _time(made_at_ms)
        )

    def _line_of_record(self, record: WriteRecord) -> BatchSender:
        problem = (record.problem or {}).get("type")
        return BatchSender(
            self.write_id(record.seq),
            record.execution_id,
            record.user_id,
            record.op,
            record.state.value,
            problem=problem,
        )

    def show(self, seq: int) -> dict[str, Any] | None:
        """All that is known of one write; None if nothing is."""
        record = history.find(self.connection, seq)
        row = self.connection.execute(
            "SELECT seq, execution_id, user_id, op, priority, coalesce_key, document, checksum,"
            " chain_id FROM entries WHERE seq = ?",
            (seq,),
        ).fetchone()
        if record is None:
            return None
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
            shown["merged_into"] = self.write_id(history.replacement_of(self.connection, seq))
        else:
            shown |= {"problem": record.problem, "removed": record.removed}
        return shown

    def _shown_entry(self, row: tuple[Any, ...]) -> dict[str, Any]:
        entry = ledger.entry_of_row(row)
        place = self.connection.execute(
            "SELECT position FROM in_flight WHERE seq = ?", (row[0],)
        ).fetchone()
        batch = {
            "epoch": self.properties["epoch"],
            "batch": self.properties["batch"],
            "digest": self.properties["digest"],
        }
        merged = self.connection.execute("SELECT seq FROM merged WHERE head = ?", (row[8],))
        return {
            "is_damaged": entry is None,
            "priority": Priority(row[4]).name.lower() if entry is not None else row[4],
            "document": _decoded(row[6]),
            "in_flight": batch | {"position": place[0]} if place is not None else None,
            "stands_for": [self.write_id(seq) for (seq,) in merged],
        }

    def export(self) -> Iterator[dict[str, Any]]:
        """What waits, in the order in which it has to be applied. Damaged entries say so."""
        for row in self.waiting():
            yield exported(row, self.write_id(row[0]))


def exported(row: tuple[Any, ...], write_id: str) -> dict[str, Any]:
    if ledger.entry_of_row(row[:9]) is None:
        return {"write_id": write_id, "damaged": True, "stored": _text(row[6])}
    return {
        "write_id": write_id,
        "execution_id": row[1],
        "user_id": row[2],
        "in_flight": bool(row[9]),
        "document": _decoded(row[6]),
    }


@contextmanager
def inspected(directory: Path) -> Iterator[Inspected]:
    """The spool in this directory. Raises `NoSpool` and `Unreadable`."""
    path = directory / schema.FILE_NAME
    if not path.exists():
        raise NoSpool(f"no {schema.FILE_NAME} in {directory}")
    # Without a log the file is complete, and opening it must not make one.
    log = path.with_name(path.name + schema.WAL_SUFFIX)
    is_sole_writer = not lock.is_held(directory) and not (log.exists() and log.stat().st_size)
    try:
        with (
            closing(WalIndex(path)) as log_index,
            closing(schema.connect_read_only(path, immutable=is_sole_writer)) as connection,
        ):
            yield Inspected(directory, connection, log_index)
    except sqlite3.Error as error:
        raise Unreadable(f"{path}: {error}") from error


@contextmanager
def carved(directory: Path) -> Iterator[Iterator[dict[str, Any]]]:
    """What an export of a damaged spool would hold, read page by page. Raises `NoSpool`."""
    path = directory / schema.FILE_NAME
    log = Log(path)
    if not path.exists() and not log.frames:
        raise NoSpool(f"no {schema.FILE_NAME} in {directory}")
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as target:
        schema.create(target)
        carver = Carver(target)
        target.execute("BEGIN")
        carver.carve(path, log)
        name = carver.spool_id or "unknown"
        rows = target.execute(
            "SELECT seq, execution_id, user_id, op, priority, coalesce_key, document, checksum,"
            " chain_id, 0 FROM entries ORDER BY seq"
        )
        unread = sorted(carver.unread)
        yield (
            line
            for lines in (
                (exported(row, f"{name}-{row[0]}") for row in rows),
                ({"write_id": f"{name}-{seq}", "damaged": True} for seq in unread),
            )
            for line in lines
        )


def _decoded(document: Any) -> Any:
    try:
        return msgspec.json.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, TypeError):
        return _text(document)


def _text(document: Any) -> str:
    raw = document if isinstance(document, bytes) else str(document).encode()
    return raw.decode(errors="backslashreplace")


def _time(made_at_ms: Any) -> str | None:
    if not isinstance(made_at_ms, int):
        return None
    moment = datetime.fromtimestamp(made_at_ms / 1000, UTC)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
