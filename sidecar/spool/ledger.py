"""What is done to the spool's file: one function per step, each run inside a transaction.

The functions take the writing connection and run on the committer's thread. Nothing else
writes the file.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from sidecar.spool.entry import (
    ENTRY_OVERHEAD_BYTES,
    Batch,
    Entry,
    NewEntry,
    Outcome,
    Urgency,
    WriteRecord,
    WriteState,
    checksum,
)
from sidecar.spool.schema import new_epoch

RECLAIMED_PAGES = 4096  # 16 MiB a minute, a few milliseconds of the writer's time

SETTLED_KEPT = 10_000
"""How many settled writes stay readable (DESIGN.md section 3, `GET /v1/writes`)."""

_ENTRY_COLUMNS = "seq, execution_id, user_id, op, urgency, merge_key, document, checksum"
_encode = msgspec.json.Encoder().encode


def properties(connection: sqlite3.Connection) -> dict[str, Any]:
    return dict(connection.execute("SELECT name, value FROM properties"))


def next_seq(connection: sqlite3.Connection) -> int:
    """One above every number ever given; `top_seq` remembers those that are in no table now."""
    row = connection.execute(
        "SELECT max((SELECT coalesce(max(seq), 0) FROM entries),"
        " (SELECT coalesce(max(seq), 0) FROM settled), (SELECT coalesce(max(seq), 0) FROM merged),"
        " (SELECT value FROM properties WHERE name = 'top_seq'))"
    ).fetchone()
    return int(row[0]) + 1


def insert(
    connection: sqlite3.Connection, seq: int, new: NewEntry, made_at_ms: int, replaces: int | None
) -> tuple[Entry, bool]:
    """Stores an entry; `replaces` is the waiting size-only write whose place it shall take.

    Also answers whether it took that place: not that of a write which a batch took meanwhile. Only
    here, in the order of the commits, is it known for sure.
    """
    head = {"seq": seq, "execution_id": new.execution_id, "made_at_ms": made_at_ms, "op": new.op}
    document = _encode(head | new.members)
    connection.execute(
        "INSERT INTO entries (seq, execution_id, user_id, op, urgency, merge_key, checksum,"
        " document) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            seq,
            new.execution_id,
            new.user_id,
            new.op,
            int(new.urgency),
            new.merge_key,
            checksum(seq, new.execution_id, document),
            document,
        ),
    )
    has_replaced = False
    if replaces is not None:
        has_replaced = bool(
            connection.execute(
                "DELETE FROM entries WHERE seq = ? AND seq NOT IN (SELECT seq FROM in_flight)",
                (replaces,),
            ).rowcount
        )
    if has_replaced:
        connection.execute("UPDATE merged SET into_seq = ? WHERE into_seq = ?", (seq, replaces))
        connection.execute("INSERT INTO merged VALUES (?, ?)", (replaces, seq))
    entry = Entry(seq, new.execution_id, new.user_id, new.op, new.urgency, new.merge_key, document)
    return entry, has_replaced


def entry_of_row(row: Sequence[Any]) -> Entry | None:
    """The entry, or None if its bytes are not those that were stored."""
    seq, execution_id, user_id, op, urgency, merge_key, document, stored_checksum = row
    try:
        if stored_checksum != checksum(seq, execution_id, document):
            return None
        return Entry(seq, execution_id, user_id, op, Urgency(urgency), merge_key, document)
    except (TypeError, ValueError):  # a flipped bit may change a value's very type
        return None


def waiting(connection: sqlite3.Connection, execution_id: int) -> list[Entry]:
    """An execution's unsettled entries in their order, those in flight included."""
    rows = connection.execute(
        f"SELECT {_ENTRY_COLUMNS} FROM entries WHERE execution_id = ? ORDER BY seq",  # noqa: S608
        (execution_id,),
    )
    return [entry for row in rows if (entry := entry_of_row(row)) is not None]


def in_flight(connection: sqlite3.Connection) -> tuple[Batch | None, list[int]]:
    """The batch that was cut and not yet settled, and the numbers of its damaged members."""
    rows = connection.execute(
        f"SELECT {_ENTRY_COLUMNS} FROM in_flight JOIN entries USING (seq) ORDER BY position"  # noqa: S608
    ).fetchall()
    if not rows:
        return None, []
    entries = [entry_of_row(row) for row in rows]
    damaged = [row[0] for row, entry in zip(rows, entries, strict=True) if entry is None]
    known = properties(connection)
    whole = tuple(entry for entry in entries if entry is not None)
    return Batch(known["epoch"], known["batch"], known["digest"], whole), damaged


def cut(
    connection: sqlite3.Connection,
    execution_ids: Iterable[int],
    max_entries: int,
    max_bytes: int,
) -> tuple[Batch | None, list[int]]:
    """Fixes the next batch: from each execution in turn a prefix of its queue, while it fits.

    Also answers the numbers of entries that were found damaged; they are left out, and
    stay for `set_aside`.
    """
    chosen: list[Entry] = []
    damaged: list[int] = []
    room_bytes = max_bytes
    for execution_id in execution_ids:
        rows = connection.execute(
            f"SELECT {_ENTRY_COLUMNS} FROM entries WHERE execution_id = ? ORDER BY seq LIMIT ?",  # noqa: S608
            (execution_id, max_entries - len(chosen)),
        )
        for row in rows:
            entry = entry_of_row(row)
            if entry is None:
                damaged.append(row[0])
                continue
            if len(entry.document) > room_bytes and chosen:
                room_bytes = 0
                break
            room_bytes -= len(entry.document)
            chosen.append(entry)
        if len(chosen) >= max_entries or room_bytes <= 0:
            break
    if not chosen:
        return None, damaged
    digest = digest_of(chosen)
    known = properties(connection)
    number = known["batch"] + 1
    connection.executemany(
        "INSERT INTO in_flight VALUES (?, ?)",
        [(position, entry.seq) for position, entry in enumerate(chosen)],
    )
    _set(connection, batch=number, digest=digest)
    return Batch(known["epoch"], number, digest, tuple(chosen)), damaged


def summaries(connection: sqlite3.Connection) -> list[tuple[int, int, list[int], int]]:
    """Each execution's queue in brief: id, first number, entries by urgency, bytes on disk."""
    counts = ", ".join(f"sum(urgency = {int(urgency)})" for urgency in Urgency)
    rows = connection.execute(
        f"SELECT execution_id, min(seq), {counts}, sum(length(document) + ?) FROM entries"  # noqa: S608
        " GROUP BY execution_id",
        (ENTRY_OVERHEAD_BYTES,),
    )
    return [(row[0], row[1], list(row[2:-1]), row[-1]) for row in rows]


def digest_of(entries: Iterable[Entry]) -> str:
    """Over the stored bytes of each entry, each followed by a newline (hex SHA-256)."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(entry.document)
        digest.update(b"\n")
    return digest.hexdigest()


def settle(connection: sqlite3.Connection, outcomes: Iterable[Outcome]) -> list[WriteRecord]:
    """Takes central's answer to the batch in flight. Answers how each settled write ended.

    A deferred member just stops being in flight: the next cut takes it again, in order.
    """
    records: list[WriteRecord] = []
    for outcome in outcomes:
        if outcome.outcome == "deferred":
            continue
        state = WriteState.COMMITTED if outcome.outcome == "applied" else WriteState.REFUSED
        records += _end(connection, outcome, state)
    connection.execute("DELETE FROM in_flight")
    _remember_top(connection, max((record.seq for record in records), default=0))
    connection.execute(
        "DELETE FROM settled WHERE position <= (SELECT max(position) FROM settled) - ?",
        (SETTLED_KEPT,),
    )
    return records


def _end(connection: sqlite3.Connection, outcome: Outcome, state: WriteState) -> list[WriteRecord]:
    row = connection.execute(
        "DELETE FROM entries WHERE seq = ? RETURNING execution_id, user_id, op", (outcome.seq,)
    ).fetchone()
    if row is None:
        return []
    execution_id, user_id, op = row
    merged = connection.execute(
        "DELETE FROM merged WHERE into_seq = ? RETURNING seq", (outcome.seq,)
    )
    seqs = [outcome.seq, *sorted(seq for (seq,) in merged.fetchall())]
    problem = _encode(outcome.problem) if outcome.problem is not None else None
    removed = _encode(outcome.removed) if outcome.removed is not None else None
    connection.executemany(
        "INSERT INTO settled (seq, execution_id, user_id, op, state, problem, removed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(seq, execution_id, user_id, op, state, problem, removed) for seq in seqs],
    )
    return [
        WriteRecord(seq, execution_id, user_id, op, state, outcome.problem, outcome.removed)
        for seq in seqs
    ]


def begin_epoch(connection: sqlite3.Connection) -> str:
    """Leaves the old numbering: what is unsettled will be cut anew, from batch 1."""
    epoch = new_epoch()
    connection.execute("DELETE FROM in_flight")
    _set(connection, epoch=epoch, batch=0, digest="")
    return epoch


def reclaim(connection: sqlite3.Connection) -> None:
    """Gives free pages back to the volume, a bounded number at a time."""
    connection.execute(f"PRAGMA incremental_vacuum({RECLAIMED_PAGES})").fetchall()


def set_aside(connection: sqlite3.Connection, seqs: Iterable[int]) -> list[tuple[Any, ...]]:
    """Takes damaged entries out of the queue and answers their rows as they are."""
    rows = []
    for seq in seqs:
        _remember_top(connection, seq)
        rows += connection.execute("SELECT * FROM entries WHERE seq = ?", (seq,)).fetchall()
        connection.execute("DELETE FROM entries WHERE seq = ?", (seq,))
        connection.execute("DELETE FROM in_flight WHERE seq = ?", (seq,))
    return rows


_RECORD_COLUMNS = "seq, execution_id, user_id, op, state, problem, removed"
_DURABLE_COLUMNS = f"seq, execution_id, user_id, op, '{WriteState.DURABLE}', NULL, NULL"


def _record_of_row(row: Sequence[Any]) -> WriteRecord:
    seq, execution_id, user_id, op, state, problem, removed = row
    return WriteRecord(
        seq, execution_id, user_id, op, WriteState(state), _decode(problem), _decode(removed)
    )


def find(connection: sqlite3.Connection, seq: int) -> WriteRecord | None:
    """Where one write stands, following the write that replaced it."""
    row = connection.execute(
        f"SELECT {_RECORD_COLUMNS} FROM settled WHERE seq = ?",  # noqa: S608
        (seq,),
    ).fetchone()
    if row is None:
        row = connection.execute(
            f"SELECT {_DURABLE_COLUMNS} FROM entries WHERE seq ="  # noqa: S608
            " coalesce((SELECT into_seq FROM merged WHERE merged.seq = ?1), ?1)",
            (seq,),
        ).fetchone()
    return replace(_record_of_row(row), seq=seq) if row is not None else None


def list_writes(
    connection: sqlite3.Connection, user_id: int, state: WriteState | None, limit: int
) -> list[WriteRecord]:
    """One user's writes, newest first."""
    rows: list[Any] = []
    if state in {None, WriteState.DURABLE}:
        rows += connection.execute(
            f"SELECT {_DURABLE_COLUMNS} FROM entries WHERE user_id = ?"  # noqa: S608
            " ORDER BY seq DESC LIMIT ?",
            (user_id, limit),
        )
    if state is not WriteState.DURABLE:
        rows += connection.execute(
            f"SELECT {_RECORD_COLUMNS} FROM settled WHERE user_id = ?1"  # noqa: S608
            " AND (?2 IS NULL OR state = ?2) ORDER BY position DESC LIMIT ?3",
            (user_id, state, limit - len(rows)),
        )
    return [_record_of_row(row) for row in rows]


def _remember_top(connection: sqlite3.Connection, seq: int) -> None:
    """Before a number may leave every table: it must never be given again."""
    connection.execute("UPDATE properties SET value = max(value, ?) WHERE name = 'top_seq'", (seq,))


def _set(connection: sqlite3.Connection, **values: Any) -> None:
    connection.executemany(
        "UPDATE properties SET value = ? WHERE name = ?",
        [(value, name) for name, value in values.items()],
    )


def _decode(blob: bytes | None) -> dict[str, Any] | None:
    return msgspec.json.decode(blob) if blob is not None else None
