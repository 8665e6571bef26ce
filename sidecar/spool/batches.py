"""Changes of the spool's file: append, cut, settle, end a corrupted entry, start an epoch.

Each function runs inside a transaction of the writer's thread. Nothing else writes these tables.

    append -> entries --cut--> entries + in_flight --settle--> settled (committed | refused)
                 ^                                     |
                 +-------- deferred, withdrawn --------+

A number has one batch, for ever. To cut its members anew, the batch is withdrawn: it is marked, and
then central says whether it had applied it. Either its outcomes are settled, or all its members
wait again and are cut under the next number. A crash in between repeats the question.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec

from sidecar.problems import WriteCorrupted, WriteSkipped
from sidecar.spool import history, schema
from sidecar.spool.entry import (
    Batch,
    Entry,
    NewEntry,
    Outcome,
    Priority,
    WriteRecord,
    WriteState,
    checksum,
    coalesced_checksum,
    record_checksum,
)
from sidecar.spool.schema import ENTRY_COLUMNS, SETTLED_COLUMNS

BATCH_MAX_ENTRIES = 1_000
BATCH_MAX_BYTES = 4 * 1024 * 1024 - 64 * 1024  # a batch is at most 4 MiB, its envelope included
HISTORY_SIZE = 10_000
"""How many settled writes stay readable (`GET /v1/writes`)."""


class Withdrawal(IntEnum):
    """What becomes of a member of the batch in flight unless central had applied the batch."""

    NO = 0
    """The batch is sent."""
    KEEP = 1
    """It is withdrawn, and this member waits again."""
    SKIP = 2
    """It is withdrawn, and this member ends as refused: an operator gave it up."""


KeepRows = Callable[[list[tuple[Any, ...]]], None]
"""Receives corrupted rows as they are, before they leave the file."""

_encode = msgspec.json.Encoder().encode


class BatchDamaged(Exception):
    """The batch in flight is not what was cut: it can neither be sent nor settled."""


@dataclass(frozen=True, slots=True)
class FormedBatch:
    """The next batch, if any, and the records of corrupted entries that were found on the way."""

    batch: Batch | None
    corrupted: list[WriteRecord]


# Append


def insert(
    connection: sqlite3.Connection, seq: int, new: NewEntry, made_at_ms: int, replaces: int | None
) -> tuple[Entry, bool]:
    """Stores an entry, in place of the waiting size-only write `replaces` if that still waits.

    Returns the entry and whether it replaced that write. Only here, in the order of the commits, is
    it known for sure that no batch has taken it.
    """
    head = {"seq": seq, "execution_id": new.execution_id, "made_at_ms": made_at_ms, "op": new.op}
    payload = _encode(head | new.fields)
    chain_id: int | None = None
    if replaces is not None:
        replaced = connection.execute(
            "DELETE FROM entries WHERE seq = ? AND seq NOT IN (SELECT seq FROM in_flight)"
            " RETURNING coalesce(chain_id, seq)",
            (replaces,),
        ).fetchone()
        if replaced is not None:
            (chain_id,) = replaced
            connection.execute(
                "INSERT INTO coalesced VALUES (?, ?, ?)",
                (replaces, chain_id, coalesced_checksum(replaces, replaced[0])),
            )
    priority = int(new.priority)
    entry = Entry(
        seq,
        new.execution_id,
        new.user_id,
        new.op,
        new.priority,
        new.coalesce_key,
        payload,
        chain_id,
    )
    connection.execute(
        f"INSERT INTO entries ({ENTRY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (
            seq,
            new.execution_id,
            new.user_id,
            new.op,
            priority,
            new.coalesce_key,
            payload,
            checksum(seq, new.execution_id, new.user_id, new.op, priority, payload),
            chain_id,
        ),
    )
    return entry, chain_id is not None


def entry_of_row(row: Sequence[Any]) -> Entry | None:
    """The entry, or None if its checksum does not match."""
    seq, execution_id, user_id, op, priority, coalesce_key, payload, stored, chain_id = row
    try:
        if stored != checksum(seq, execution_id, user_id, op, priority, payload):
            return None
        known_priority = Priority(priority)
    except (TypeError, ValueError, AttributeError):  # a flipped bit may change a value's very type
        return None
    return Entry(seq, execution_id, user_id, op, known_priority, coalesce_key, payload, chain_id)


def waiting(connection: sqlite3.Connection, execution_id: int) -> list[Entry]:
    """An execution's unsettled entries in order, those in flight included."""
    rows = connection.execute(
        f"SELECT {ENTRY_COLUMNS} FROM entries WHERE execution_id = ? ORDER BY seq",  # noqa: S608
        (execution_id,),
    )
    return [entry for row in rows if (entry := entry_of_row(row)) is not None]


# Cut


def has_batch(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM in_flight").fetchone() is not None


def in_flight(connection: sqlite3.Connection) -> Batch | None:
    """The batch that was cut and is not settled. Raises `BatchDamaged`."""
    rows = connection.execute(
        f"SELECT withdrawal, {ENTRY_COLUMNS} FROM in_flight LEFT JOIN entries USING (seq)"  # noqa: S608
        " ORDER BY position"
    ).fetchall()
    if not rows:
        return None
    entries = tuple(entry for _, *row in rows if (entry := entry_of_row(row)) is not None)
    meta = schema.read_meta(connection)
    if len(entries) < len(rows) or digest_of(entries) != meta["digest"]:
        raise BatchDamaged(f"batch {meta['batch']} of epoch {meta['epoch']}")
    is_withdrawn = any(row[0] != Withdrawal.NO for row in rows)
    return Batch(meta["epoch"], meta["batch"], meta["digest"], entries, is_withdrawn)


def cut(
    connection: sqlite3.Connection,
    execution_ids: Iterable[int],
    max_entries: int,
    max_bytes: int,
    keep: KeepRows,
) -> FormedBatch:
    """Fixes the next batch: of each execution in turn a prefix of its queue, as far as it fits."""
    chosen: list[Entry] = []
    corrupted: list[int] = []
    room_bytes = max_bytes
    for execution_id in execution_ids:
        rows = connection.execute(
            f"SELECT {ENTRY_COLUMNS} FROM entries WHERE execution_id = ? ORDER BY seq LIMIT ?",  # noqa: S608
            (execution_id, max_entries - len(chosen)),
        )
        for row in rows:
            entry = entry_of_row(row)
            if entry is None:
                corrupted.append(row[0])
                continue
            if len(entry.payload) > room_bytes and chosen:
                room_bytes = 0  # never a later one in its place: order per execution
                break
            room_bytes -= len(entry.payload)
            chosen.append(entry)
        rows.close()
        if len(chosen) >= max_entries or room_bytes <= 0:
            break
    records = end_corrupted(connection, corrupted, keep)
    return FormedBatch(_fix_members(connection, chosen) if chosen else None, records)


def cut_all(connection: sqlite3.Connection, max_entries: int, max_bytes: int) -> Batch | None:
    """Fixes all waiting entries as the next batch, in the commit that stores the last of them.

    None where `cut` has to choose: nothing waits, too much does, a write may still be replaced, or
    one is corrupted.
    """
    rows = connection.execute(
        f"SELECT {ENTRY_COLUMNS} FROM entries ORDER BY seq LIMIT ?",  # noqa: S608
        (max_entries + 1,),
    ).fetchall()
    chosen = [entry for row in rows if (entry := entry_of_row(row)) is not None]
    if not chosen or len(chosen) < len(rows) or len(chosen) > max_entries:
        return None
    if any(entry.coalesce_key is not None for entry in chosen) or has_batch(connection):
        return None
    if sum(len(entry.payload) for entry in chosen) > max_bytes:
        return None
    return _fix_members(connection, chosen)


def withdraw(connection: sqlite3.Connection) -> None:
    """From now on the batch in flight is not sent, but withdrawn."""
    connection.execute(
        "UPDATE in_flight SET withdrawal = ? WHERE withdrawal = ?", (Withdrawal.KEEP, Withdrawal.NO)
    )


def _fix_members(connection: sqlite3.Connection, chosen: Sequence[Entry]) -> Batch:
    digest = digest_of(chosen)
    meta = schema.read_meta(connection)
    number = meta["batch"] + 1
    connection.executemany(
        "INSERT INTO in_flight (position, seq, generation) VALUES (?, ?, coalesce("
        "(SELECT generation FROM bindings WHERE execution_id = ?), 0))",
        [(position, entry.seq, entry.execution_id) for position, entry in enumerate(chosen)],
    )
    schema.write_meta(connection, batch=number, digest=digest)
    return Batch(meta["epoch"], number, digest, tuple(chosen))


def digest_of(entries: Iterable[Entry]) -> str:
    """Hex SHA-256 over the stored bytes of the entries, each followed by a newline."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(entry.payload)
        digest.update(b"\n")
    return digest.hexdigest()


# Settle


def settle(connection: sqlite3.Connection, outcomes: Iterable[Outcome]) -> list[WriteRecord]:
    """Stores central's outcomes of the batch in flight. Returns the records of settled writes.

    A member that is deferred, or has no outcome, only leaves the batch: the next cut takes it
    again, in order.
    """
    records: list[WriteRecord] = []
    for outcome in outcomes:
        if outcome.outcome == "deferred":
            continue
        state = WriteState.COMMITTED if outcome.outcome == "applied" else WriteState.REFUSED
        records += _end(connection, outcome, state)
    connection.execute("DELETE FROM in_flight")
    _trim_history(connection, records)
    return records


def _trim_history(connection: sqlite3.Connection, records: Sequence[WriteRecord]) -> None:
    if records:
        schema.bump_max_seq(connection, max(record.seq for record in records))
    connection.execute(
        "DELETE FROM settled WHERE position <= (SELECT max(position) FROM settled) - ?",
        (HISTORY_SIZE,),
    )


def _end(connection: sqlite3.Connection, outcome: Outcome, state: WriteState) -> list[WriteRecord]:
    """Settles an entry and the writes that it replaced. Returns their records, oldest first."""
    row = connection.execute(
        "DELETE FROM entries WHERE seq = ? RETURNING execution_id, user_id, op, chain_id",
        (outcome.seq,),
    ).fetchone()
    if row is None:
        return []
    # A corrupted row may hold anything; 0 is nobody's id.
    execution_id, user_id = (value if isinstance(value, int) else 0 for value in row[:2])
    op, chain_id = str(row[2]), row[3]
    replaced = connection.execute(
        "DELETE FROM coalesced WHERE chain_id = ? RETURNING seq", (chain_id,)
    )
    seqs = [*sorted(seq for (seq,) in replaced.fetchall()), outcome.seq]
    problem = _encode(outcome.problem) if outcome.problem is not None else None
    removed = _encode(outcome.removed) if outcome.removed is not None else None
    rows = [(seq, execution_id, user_id, op, str(state), problem, removed) for seq in seqs]
    connection.executemany(
        f"INSERT OR REPLACE INTO settled ({SETTLED_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        [(*row, record_checksum(*row)) for row in rows],
    )
    return [
        WriteRecord(seq, execution_id, user_id, op, state, outcome.problem, outcome.removed)
        for seq in seqs
    ]


# Skip


def skip(connection: sqlite3.Connection, seq: int) -> list[WriteRecord]:
    """Gives a waiting entry up: it ends as refused, at once unless it is in flight.

    Central may have applied the batch in flight. It is withdrawn, and settling it ends the entry.
    """
    if connection.execute("SELECT 1 FROM entries WHERE seq = ?", (seq,)).fetchone() is None:
        return []
    if connection.execute("SELECT 1 FROM in_flight WHERE seq = ?", (seq,)).fetchone() is not None:
        withdraw(connection)
        mark = "UPDATE in_flight SET withdrawal = ? WHERE seq = ?"
        connection.execute(mark, (Withdrawal.SKIP, seq))
        record = history.find(connection, seq)
        return [record] if record is not None else []
    records = _end(connection, _skipped(seq, "before central had it"), WriteState.REFUSED)
    _trim_history(connection, records)
    return records


def with_skipped(
    connection: sqlite3.Connection,
    outcomes: Sequence[Outcome],
    reason: str = "and central does not have it",
) -> list[Outcome]:
    """The outcomes of a withdrawn batch, with refusals of the members that an operator gave up and
    central has not settled."""
    settled = {outcome.seq for outcome in outcomes if outcome.outcome != "deferred"}
    query = "SELECT seq FROM in_flight WHERE withdrawal = ?"
    skipped = [seq for (seq,) in connection.execute(query, (Withdrawal.SKIP,))]
    return [*outcomes, *(_skipped(seq, reason) for seq in skipped if seq not in settled)]


def _skipped(seq: int, reason: str) -> Outcome:
    problem = WriteSkipped(f"an operator gave the write up, {reason}")
    return Outcome(seq, "refused", problem.document())


# Corruption


def malformed(connection: sqlite3.Connection) -> list[int]:
    """Entries with a value of a type or in a range that is never stored."""
    rows = connection.execute(
        "SELECT seq FROM entries WHERE typeof(execution_id) <> 'integer'"
        " OR typeof(user_id) <> 'integer' OR typeof(op) <> 'text'"
        " OR typeof(payload) <> 'blob' OR typeof(checksum) <> 'integer'"
        " OR typeof(priority) <> 'integer' OR priority NOT BETWEEN ? AND ?",
        (min(Priority), max(Priority)),
    )
    return [seq for (seq,) in rows]


def end_corrupted(
    connection: sqlite3.Connection, seqs: Sequence[int], keep: KeepRows
) -> list[WriteRecord]:
    """Settles corrupted entries as refused: what they said cannot be known."""
    if not seqs:
        return []
    query = "SELECT * FROM entries WHERE seq = ?"
    keep([row for seq in seqs for row in connection.execute(query, (seq,))])
    problem = WriteCorrupted(
        "damaged in the sidecar's spool; whether central has it is unknown"
    ).document()
    records: list[WriteRecord] = []
    for seq in seqs:
        records += _end(connection, Outcome(seq, "refused", problem), WriteState.REFUSED)
        connection.execute("DELETE FROM in_flight WHERE seq = ?", (seq,))
    _trim_history(connection, records)
    return records


def abandon_batch(connection: sqlite3.Connection, keep: KeepRows) -> tuple[str, list[WriteRecord]]:
    """Ends the corrupted members of the batch in flight, and starts a new epoch for the others."""
    rows = connection.execute(
        f"SELECT {ENTRY_COLUMNS} FROM in_flight JOIN entries USING (seq)"  # noqa: S608
    ).fetchall()
    epoch, records = start_epoch(connection)
    corrupted = [row[0] for row in rows if entry_of_row(row) is None]
    return epoch, records + end_corrupted(connection, corrupted, keep)


def start_epoch(connection: sqlite3.Connection) -> tuple[str, list[WriteRecord]]:
    """Leaves the old numbering: what is unsettled will be cut again, from batch 1.

    Returns the epoch, and the records of members in flight that an operator gave up.
    """
    skipped = with_skipped(connection, [], "and whether central has it is unknown")
    records = settle(connection, skipped)
    epoch = schema.new_epoch()
    schema.write_meta(connection, epoch=epoch, batch=0, digest="")
    return epoch, records
