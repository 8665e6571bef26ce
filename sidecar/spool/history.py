"""Queries for the state of writes: of one, and of all of a user."""

import math
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from sidecar.spool.entry import WriteRecord, WriteState, record_checksum
from sidecar.spool.schema import SETTLED_COLUMNS

_SETTLED = f"SELECT {SETTLED_COLUMNS} FROM settled"  # noqa: S608
_DURABLE = f"execution_id, user_id, op, '{WriteState.DURABLE}', NULL, NULL, NULL"
_WAITING = f"SELECT seq, {_DURABLE} FROM entries"  # noqa: S608
# A coalesced write is durable as long as its replacement is.
_COALESCED = f"SELECT coalesced.seq, {_DURABLE} FROM coalesced JOIN entries USING (chain_id)"  # noqa: S608


def find(connection: sqlite3.Connection, seq: int) -> WriteRecord | None:
    """State of one write; a coalesced one has that of its replacement."""
    for query in (
        f"{_SETTLED} WHERE seq = ?",
        f"{_WAITING} WHERE seq = ?",
        f"{_COALESCED} WHERE coalesced.seq = ?",
    ):
        row = connection.execute(query, (seq,)).fetchone()
        if row is not None:
            record = _record_of_row(row)
            return replace(record, seq=seq) if record is not None else None
    return None


def is_refused(connection: sqlite3.Connection, seq: int) -> bool:
    record = find(connection, seq)
    return record is not None and record.state is WriteState.REFUSED


def list_writes(
    connection: sqlite3.Connection, user_id: int, state: WriteState | None, limit: int
) -> list[WriteRecord]:
    """One user's writes, newest first."""
    rows: list[Any] = []
    if state in {None, WriteState.DURABLE}:
        for query, order in ((_WAITING, "seq"), (_COALESCED, "coalesced.seq")):
            rows += connection.execute(
                f"{query} WHERE user_id = ? ORDER BY {order} DESC LIMIT ?", (user_id, limit)
            )
    if state is not WriteState.DURABLE:
        rows += connection.execute(
            f"{_SETTLED} WHERE user_id = ?1 AND (?2 IS NULL OR state = ?2)"
            " ORDER BY seq DESC LIMIT ?3",
            (user_id, state, limit),
        )
    return sorted(_records(rows), key=lambda record: -record.seq)[:limit]


def oldest(connection: sqlite3.Connection) -> float:
    """The lowest number without an outcome; infinity if nothing waits."""
    numbers = connection.execute(
        "SELECT (SELECT min(seq) FROM entries),"
        " (SELECT min(chain_id) FROM entries WHERE chain_id IS NOT NULL)"
    ).fetchone()
    return min((number for number in numbers if number is not None), default=math.inf)


def newest_settled(
    connection: sqlite3.Connection, execution_id: int | None = None
) -> list[WriteRecord]:
    """Settled writes, the last first."""
    rows = connection.execute(
        f"{_SETTLED} WHERE ?1 IS NULL OR execution_id = ?1 ORDER BY position DESC", (execution_id,)
    )
    return _records(rows)


def coalesced_writes(
    connection: sqlite3.Connection, execution_id: int | None = None
) -> list[WriteRecord]:
    """Replaced writes, which wait with their replacement."""
    rows = connection.execute(
        f"{_COALESCED} WHERE ?1 IS NULL OR execution_id = ?1 ORDER BY coalesced.seq",
        (execution_id,),
    )
    return _records(rows)


def replacement_of(connection: sqlite3.Connection, seq: int) -> int:
    """The entry that decides a coalesced write's outcome."""
    (replacement,) = connection.execute(
        "SELECT entries.seq FROM coalesced JOIN entries USING (chain_id) WHERE coalesced.seq = ?",
        (seq,),
    ).fetchone()
    return int(replacement)


def _records(rows: Iterable[Sequence[Any]]) -> list[WriteRecord]:
    return [record for row in rows if (record := _record_of_row(row)) is not None]


def _record_of_row(row: Sequence[Any]) -> WriteRecord | None:
    """The record; None if its checksum does not match."""
    seq, execution_id, user_id, op, state, problem, removed, stored = row
    try:
        expected = record_checksum(seq, execution_id, user_id, op, state, problem, removed)
        if state != WriteState.DURABLE and stored != expected:
            return None
        return WriteRecord(
            seq, execution_id, user_id, op, WriteState(state), _decode(problem), _decode(removed)
        )
    except (ValueError, TypeError, AttributeError, msgspec.MsgspecError):
        return None


def _decode(blob: bytes | None) -> dict[str, Any] | None:
    return msgspec.json.decode(blob, type=dict[str, Any]) if blob is not None else None
