"""How writes end in the file: as central answered, or refused because they were found damaged.

Like `ledger`, these run inside a transaction of the committer's thread.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from sidecar.problems import WriteCorrupted
from sidecar.spool import properties
from sidecar.spool.entry import Outcome, Priority, WriteRecord, WriteState, record_checksum

HISTORY_SIZE = 10_000
"""How many settled writes stay readable (DESIGN.md section 3, `GET /v1/writes`)."""

Keep = Callable[[list[tuple[Any, ...]]], None]
"""Is given damaged rows as they are, before they leave the file."""


_encode = msgspec.json.Encoder().encode


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
    _keep_recent(connection, records)
    return records


def _keep_recent(connection: sqlite3.Connection, records: Sequence[WriteRecord]) -> None:
    if records:
        properties.raise_top(connection, max(record.seq for record in records))
    connection.execute(
        "DELETE FROM settled WHERE position <= (SELECT max(position) FROM settled) - ?",
        (HISTORY_SIZE,),
    )


def _end(connection: sqlite3.Connection, outcome: Outcome, state: WriteState) -> list[WriteRecord]:
    """The records of an entry and of those whose place it took, oldest first."""
    row = connection.execute(
        "DELETE FROM entries WHERE seq = ? RETURNING execution_id, user_id, op, chain_id",
        (outcome.seq,),
    ).fetchone()
    if row is None:
        return []
    execution_id, user_id, op, chain_id = _whole(row[0]), _whole(row[1]), str(row[2]), row[3]
    merged = connection.execute("DELETE FROM merged WHERE head = ? RETURNING seq", (chain_id,))
    seqs = [*sorted(seq for (seq,) in merged.fetchall()), outcome.seq]
    problem = _encode(outcome.problem) if outcome.problem is not None else None
    removed = _encode(outcome.removed) if outcome.removed is not None else None
    rows = [(seq, execution_id, user_id, op, str(state), problem, removed) for seq in seqs]
    connection.executemany(
        "INSERT OR REPLACE INTO settled"
        " (seq, execution_id, user_id, op, state, problem, removed, checksum)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [(*row, record_checksum(*row)) for row in rows],
    )
    return [
        WriteRecord(seq, execution_id, user_id, op, state, outcome.problem, outcome.removed)
        for seq in seqs
    ]


def _whole(number: Any) -> int:
    """The number, or nobody's 0 where a damaged row holds something else."""
    return number if isinstance(number, int) else 0


def malformed(connection: sqlite3.Connection) -> list[int]:
    """Entries with a value of a type or in a range that no sidecar stores."""
    return [
        seq
        for (seq,) in connection.execute(
            "SELECT seq FROM entries WHERE typeof(execution_id) <> 'integer'"
            " OR typeof(user_id) <> 'integer' OR typeof(op) <> 'text'"
            " OR typeof(document) <> 'blob' OR typeof(checksum) <> 'integer'"
            " OR typeof(priority) <> 'integer' OR priority NOT BETWEEN ? AND ?",
            (min(Priority), max(Priority)),
        )
    ]


def set_aside(connection: sqlite3.Connection, seqs: Sequence[int], keep: Keep) -> list[WriteRecord]:
    """Ends damaged entries as refused: nobody can know any more what they said."""
    if not seqs:
        return []
    query = "SELECT * FROM entries WHERE seq = ?"
    keep([row for seq in seqs for row in connection.execute(query, (seq,))])
    problem = WriteCorrupted(
        "damaged in the sidecar's spool; whether central has it cannot be told"
    ).document()
    records: list[WriteRecord] = []
    for seq in seqs:
        records += _end(connection, Outcome(seq, "refused", problem), WriteState.REFUSED)
        connection.execute("DELETE FROM in_flight WHERE seq = ?", (seq,))
    _keep_recent(connection, records)
    return records
