"""The ring of settled writes: what it keeps, and that it is bounded."""

import json

from sidecar.delivery.recent_writes import MAX_PER_BATCH, MAX_WRITES, RecentWrites
from sidecar.spool.entry import Entry, Priority, WriteRecord, WriteState

EID, USER = 7, 17


def entry(seq: int) -> Entry:
    payload = json.dumps({"seq": seq, "made_at_ms": seq * 10, "name": "x" * 50}).encode()
    return Entry(seq, EID, USER, "update_execution", Priority.NORMAL, None, payload)


def record(seq: int, state: WriteState = WriteState.COMMITTED) -> WriteRecord:
    problem = {"type": "late"} if state is WriteState.REFUSED else None
    return WriteRecord(seq, EID, USER, "update_execution", state, problem, None)


def test_settled_members_are_kept_with_their_times_and_deferred_ones_are_not() -> None:
    recent = RecentWrites()
    records = [record(1), record(2, WriteState.REFUSED)]

    recent.add([entry(1), entry(2), entry(3)], records, sent_at_ms=40, settled_at_ms=50)

    newest, oldest = recent.since(0)
    assert (newest.seq, newest.state, newest.problem) == (2, WriteState.REFUSED, "late")
    assert (oldest.made_at_ms, oldest.sent_at_ms, oldest.settled_at_ms) == (10, 40, 50)
    assert recent.since(51) == []


def test_large_batches_and_long_lives_are_bounded() -> None:
    recent = RecentWrites()
    for first in range(0, 20_000, 1000):
        seqs = range(first, first + 1000)
        recent.add([entry(seq) for seq in seqs], [record(seq) for seq in seqs], 1, 2)

    kept = recent.since(0)
    assert len(kept) == MAX_WRITES
    assert [write.seq for write in kept[:MAX_PER_BATCH]] == list(range(19_999, 19_899, -1))
