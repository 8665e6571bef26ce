"""What is done to the spool's file: one function per step, each run inside a transaction.

The functions take the writing connection and run on the committer's thread. Nothing else
writes the file.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from sidecar.spool import properties
from sidecar.spool.entry import (
    ENTRY_OVERHEAD_BYTES,
    Batch,
    Entry,
    NewEntry,
    Priority,
    WriteRecord,
    checksum,
    merged_checksum,
)
from sidecar.spool.schema import new_epoch
from sidecar.spool.settling import Keep, set_aside

_ENTRY_COLUMNS = (
    "seq, execution_id, user_id, op, priority, coalesce_key, document, checksum, chain_id"
)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class FormedBatch:
    """The next batch, if any, and how the damaged entries that were met on the way ended."""

    batch: Batch | None
    set_aside: list[WriteRecord]


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
    replaced = None
    if replaces is not None:
        replaced = connection.execute(
            "DELETE FROM entries WHERE seq = ? AND seq NOT IN (SELECT seq FROM in_flight)"
            " RETURNING coalesce(chain_id, seq)",
            (replaces,),
        ).fetchone()
    chain_id: int | None = replaced[0] if replaced is not None else None
    if replaces is not None and chain_id is not None:
        connection.execute(
            "INSERT INTO merged VALUES (?, ?, ?)",
            (replaces, chain_id, merged_checksum(replaces, chain_id)),
        )
    priority = int(new.priority)
    sealed = checksum(seq, new.execution_id, new.user_id, new.op, priority, document)
    connection.execute(
        f"INSERT INTO entries ({_ENTRY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            seq,
            new.execution_id,
            new.user_id,
            new.op,
            priority,
            new.coalesce_key,
            document,
            sealed,
            chain_id,
        ),
    )
    entry = Entry(
        seq,
        new.execution_id,
        new.user_id,
        new.op,
        new.priority,
        new.coalesce_key,
        document,
        chain_id,
    )
    return entry, chain_id is not None


def entry_of_row(row: Sequence[Any]) -> Entry | None:
    """The entry, or None if its bytes are not those that were stored."""
    seq, execution_id, user_id, op, priority, coalesce_key, document, stored, chain_id = row
    try:
        if stored != checksum(seq, execution_id, user_id, op, priority, document):
            return None
        kind = Priority(priority)
    except (TypeError, ValueError, AttributeError):  # a flipped bit may change a value's very type
        return None
    return Entry(seq, execution_id, user_id, op, kind, coalesce_key, document, chain_id)


def waiting(connection: sqlite3.Connection, execution_id: int) -> list[Entry]:
    """An execution's unsettled entries in their order, those in flight included."""
    rows = connection.execute(
        f"SELECT {_ENTRY_COLUMNS} FROM entries WHERE execution_id = ? ORDER BY seq",  # noqa: S608
        (execution_id,),
    )
    return [entry for row in rows if (entry := entry_of_row(row)) is not None]


def has_batch(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM in_flight").fetchone() is not None


def in_flight(connection: sqlite3.Connection) -> FormedBatch | None:
    """The batch that was cut and not yet settled, to be sent again.

    None if it is not what it was when it was cut: it can neither be sent nor answered.
    """
    rows = connection.execute(
        f"SELECT {_ENTRY_COLUMNS} FROM in_flight LEFT JOIN entries USING (seq) ORDER BY position"  # noqa: S608
    ).fetchall()
    if not rows:
        return FormedBatch(None, [])
    entries = tuple(entry for row in rows if (entry := entry_of_row(row)) is not None)
    known = properties.read(connection)
    if len(entries) < len(rows) or digest_of(entries) != known["digest"]:
        return None
    return FormedBatch(Batch(known["epoch"], known["batch"], known["digest"], entries), [])


def abandon_batch(connection: sqlite3.Connection, keep: Keep) -> list[WriteRecord]:
    """Sets the damaged members aside and begins a new epoch for the others."""
    rows = connection.execute(
        f"SELECT {_ENTRY_COLUMNS} FROM in_flight JOIN entries USING (seq)"  # noqa: S608
    ).fetchall()
    begin_epoch(connection)
    return set_aside(connection, [row[0] for row in rows if entry_of_row(row) is None], keep)


def cut(
    connection: sqlite3.Connection,
    execution_ids: Iterable[int],
    max_entries: int,
    max_bytes: int,
    keep: Keep,
) -> FormedBatch:
    """Fixes the next batch: from each execution in turn a prefix of its queue, while it fits."""
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
        rows.close()
        if len(chosen) >= max_entries or room_bytes <= 0:
            break
    records = set_aside(connection, damaged, keep)
    return FormedBatch(_fixed(connection, chosen) if chosen else None, records)


def cut_all(connection: sqlite3.Connection, max_entries: int, max_bytes: int) -> Batch | None:
    """Fixes all that waits as the next batch, in the commit that stores it: for an idle system.

    None where choosing is for `cut`: nothing waits, too much does, a write may still be
    replaced, or one is damaged.
    """
    rows = connection.execute(
        f"SELECT {_ENTRY_COLUMNS} FROM entries ORDER BY seq LIMIT ?",  # noqa: S608
        (max_entries + 1,),
    ).fetchall()
    chosen = [entry for row in rows if (entry := entry_of_row(row)) is not None]
    if not chosen or len(chosen) < len(rows) or len(chosen) > max_entries:
        return None
    if any(entry.coalesce_key is not None for entry in chosen) or has_batch(connection):
        return None
    if sum(len(entry.document) for entry in chosen) > max_bytes:
        return None
    return _fixed(connection, chosen)


def _fixed(connection: sqlite3.Connection, chosen: Sequence[Entry]) -> Batch:
    digest = digest_of(chosen)
    known = properties.read(connection)
    number = known["batch"] + 1
    connection.executemany(
        "INSERT INTO in_flight VALUES (?, ?)",
        [(position, entry.seq) for position, entry in enumerate(chosen)],
    )
    properties.write(connection, batch=number, digest=digest)
    return Batch(known["epoch"], number, digest, tuple(chosen))


def summaries(connection: sqlite3.Connection) -> list[tuple[int, int, list[int], int]]:
    """Each execution's queue in brief: id, first number, entries by priority, bytes on disk."""
    counts = ", ".join(f"sum(priority = {int(priority)})" for priority in Priority)
    rows = connection.execute(
        f"SELECT execution_id, min(seq), {counts}, sum(length(document) + ?) FROM entries"  # noqa: S608
        " GROUP BY execution_id",
        (ENTRY_OVERHEAD_BYTES,),
    )
    return [(row[0], row[1], list(row[2:-1]), row[-1]) for row in rows]


def coalesced_count(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT count(*) FROM merged").fetchone()[0]
    return count


def digest_of(entries: Iterable[Entry]) -> str:
    """Over the stored bytes of each entry, each followed by a newline (hex SHA-256)."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(entry.document)
        digest.update(b"\n")
    return digest.hexdigest()


def begin_epoch(connection: sqlite3.Connection) -> str:
    """Leaves the old numbering: what is unsettled will be cut anew, from batch 1."""
    epoch = new_epoch()
    connection.execute("DELETE FROM in_flight")
    properties.write(connection, epoch=epoch, batch=0, digest="")
    return epoch
