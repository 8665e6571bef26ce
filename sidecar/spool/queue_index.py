"""Summaries of the executions' queues, by which `cut` chooses.

An index of the file in memory: made when the file is opened, changed in the order of its commits
only. It holds a few numbers per execution, so that a full spool costs little memory; the entries
themselves stay on disk.
"""

import heapq
import sqlite3
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sidecar.problems import WriteSkipped
from sidecar.spool import schema
from sidecar.spool.bindings import StoredRows
from sidecar.spool.capacity import Usage
from sidecar.spool.entry import (
    COALESCED_BYTES,
    ENTRY_OVERHEAD_BYTES,
    Entry,
    Priority,
    made_at_ms_of,
)

MAX_COALESCIBLE = 10_000
"""Waiting size-only writes that can be replaced; beyond it the oldest are delivered as they are."""

DEFER_BASE_S = 0.05
DEFER_MAX_S = 2.0
"""A deferred execution (its row is locked by someone else) is not cut for this long, doubling."""
DEFER_DOUBLINGS_MAX = 32
"""Beyond it the delay is at its maximum for long, and the power would not fit a float one day: a
row that stays locked for half an hour is deferred a thousand times."""


@dataclass(frozen=True, slots=True)
class CoalescibleWrite:
    """A waiting size-only write, as far as its replacement needs it."""

    seq: int
    execution_id: int
    user_id: int
    priority: Priority
    coalesce_key: str
    size_bytes: int


@dataclass(slots=True)
class Queue:
    """One execution's unsettled entries."""

    first_seq: int
    """About the number of the oldest entry, for the rank: of a replacement in first place it is
    that of the write that was replaced, and a skip may leave older entries behind."""
    counts: list[int] = field(default_factory=lambda: [0] * len(Priority))
    """Entries by priority."""
    oldest_ms: list[int] = field(default_factory=lambda: [0] * len(Priority))
    """By priority: no entry was made before this time of the spool's clock; 0 if unknown."""
    coalescible: int = 0
    coalescible_since: float = 0.0
    deferred_until: float = 0.0
    defer_count: int = 0
    is_partly_sent: bool = False
    """Whether the last batch took only a part of it."""

    @property
    def length(self) -> int:
        return sum(self.counts)

    @property
    def priority(self) -> Priority:
        return next(priority for priority in Priority if self.counts[priority])

    @property
    def rank(self) -> tuple[Priority, bool, int]:
        """Most urgent first, then the oldest. A terminal status that did not fit in the last batch
        goes before the terminal statuses of other executions."""
        priority = self.priority
        return priority, priority is Priority.TERMINAL and not self.is_partly_sent, self.first_seq

    def due_at(self, coalesce_window_s: float) -> float:
        """When it may be cut: not while deferred, nor while all its entries may be replaced."""
        is_coalescing = self.coalescible == self.length
        window_end = self.coalescible_since + coalesce_window_s if is_coalescing else 0.0
        return max(self.deferred_until, window_end)


class QueueIndex:
    """All queues. Times are of a monotonic clock, in seconds."""

    def __init__(self, coalesce_window_s: float) -> None:
        self._coalesce_window_s = coalesce_window_s
        self._queues: dict[int, Queue] = {}
        self._coalescible: OrderedDict[tuple[int, str], CoalescibleWrite] = OrderedDict()
        self.entry_count = 0
        self.terminal_count = 0
        self.coalesced_count = 0
        """Replaced writes. They were acknowledged, so their outcome has to be kept."""
        self._entries_bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._entries_bytes + self.coalesced_count * COALESCED_BYTES

    @property
    def usage(self) -> Usage:
        """What the limits count."""
        return Usage(self.entry_count + self.coalesced_count, self.size_bytes)

    def length(self, execution_id: int) -> int:
        queue = self._queues.get(execution_id)
        return queue.length if queue else 0

    def lengths(self) -> dict[int, int]:
        """The number of waiting entries of each execution that has any."""
        return {execution_id: queue.length for execution_id, queue in self._queues.items()}

    def coalescible(self, execution_id: int, coalesce_key: str | None) -> CoalescibleWrite | None:
        """The waiting size-only write to the same row, unless a batch has taken it."""
        if coalesce_key is None:
            return None
        return self._coalescible.get((execution_id, coalesce_key))

    def count(self, priority: Priority) -> int:
        """The number of waiting entries of this priority."""
        return sum(queue.counts[priority] for queue in self._queues.values())

    def oldest_ms(self, priority: Priority) -> int | None:
        """When the oldest waiting entry of this priority was made, at the earliest.

        Exact for an execution's first one; for the next, at worst the time of the entry that was
        settled before it.
        """
        return min(
            (
                queue.oldest_ms[priority]
                for queue in self._queues.values()
                if queue.counts[priority] and queue.oldest_ms[priority]
            ),
            default=None,
        )

    def restore(
        self,
        execution_id: int,
        first_seq: int,
        counts: list[int],
        oldest_ms: list[int],
        size: int,
    ) -> None:
        """Takes an execution's summary from the file, at open."""
        self._queues[execution_id] = Queue(first_seq, counts, oldest_ms)
        self.entry_count += sum(counts)
        self.terminal_count += counts[Priority.TERMINAL]
        self._entries_bytes += size

    def add(self, entry: Entry, now: float, made_at_ms: int) -> None:
        queue = self._queues.setdefault(entry.execution_id, Queue(entry.seq))
        if not queue.counts[entry.priority]:
            queue.oldest_ms[entry.priority] = made_at_ms
        queue.counts[entry.priority] += 1
        self.entry_count += 1
        self.terminal_count += entry.priority is Priority.TERMINAL
        self._entries_bytes += entry.size_bytes
        if entry.coalesce_key is not None:
            older = self._coalescible.get((entry.execution_id, entry.coalesce_key))
            if older is not None:
                self._end_coalescing([older])  # only the newest to a row may still be replaced
            if not queue.coalescible:
                queue.coalescible_since = now
            queue.coalescible += 1
            self._coalescible[entry.execution_id, entry.coalesce_key] = CoalescibleWrite(
                entry.seq,
                entry.execution_id,
                entry.user_id,
                entry.priority,
                entry.coalesce_key,
                entry.size_bytes,
            )
            if len(self._coalescible) > MAX_COALESCIBLE:
                self._end_coalescing([next(iter(self._coalescible.values()))])

    def replace(
        self, replaced: CoalescibleWrite, entry: Entry, now: float, made_at_ms: int
    ) -> None:
        """Replaces a waiting size-only write. The time that it has waited counts on."""
        queue = self._queues[entry.execution_id]
        since = queue.coalescible_since if queue.coalescible else now
        self.add(entry, now, made_at_ms)
        self._decrement(replaced)
        self.coalesced_count += 1
        queue.coalescible_since = since

    def cut(self, entries: Sequence[Entry]) -> None:
        """These are in a batch now: nothing may replace them any more."""
        self._end_coalescing(entries)
        for execution_id, count in Counter(entry.execution_id for entry in entries).items():
            queue = self._queues[execution_id]
            queue.is_partly_sent = count < queue.length

    def free(self, execution_ids: Iterable[int]) -> None:
        """Their batch was withdrawn: nothing of it was sent."""
        for execution_id in execution_ids:
            if (queue := self._queues.get(execution_id)) is not None:
                queue.is_partly_sent = False

    def defer(self, execution_ids: Iterable[int], now: float) -> None:
        """Central deferred these: they are not cut for a while."""
        for execution_id in execution_ids:
            queue = self._queues.get(execution_id)
            if queue is None:
                continue  # all its entries were lost to corruption while the batch was in flight
            doublings = min(queue.defer_count, DEFER_DOUBLINGS_MAX)
            delay_s = min(DEFER_MAX_S, DEFER_BASE_S * 2**doublings)
            queue.deferred_until = now + delay_s
            queue.defer_count += 1

    def remove(self, entry: Entry) -> None:
        """The entry is settled, as are the older ones of its execution unless it was skipped."""
        queue = self._queues[entry.execution_id]
        queue.first_seq = max(queue.first_seq, entry.seq + 1)
        queue.defer_count = 0
        self._decrement(entry)
        if queue.length:
            made_at_ms = entry.made_at_ms
            queue.oldest_ms = [max(oldest_ms, made_at_ms) for oldest_ms in queue.oldest_ms]

    def ranked(self, now: float, limit: int, *, flush: bool = False) -> list[int]:
        """Executions to cut from, by rank. `flush` does not wait for replacements."""
        window_s = 0.0 if flush else self._coalesce_window_s
        due = (
            (queue.rank, execution_id)
            for execution_id, queue in self._queues.items()
            if queue.due_at(window_s) <= now
        )
        return [execution_id for _, execution_id in heapq.nsmallest(limit, due)]

    def next_due_at(self) -> float | None:
        """When the first queue is due; None if there is no queue."""
        due = (queue.due_at(self._coalesce_window_s) for queue in self._queues.values())
        return min(due, default=None)

    def _decrement(self, entry: Entry | CoalescibleWrite) -> None:
        self._end_coalescing([entry])
        queue = self._queues[entry.execution_id]
        queue.counts[entry.priority] -= 1
        self.entry_count -= 1
        self.terminal_count -= entry.priority is Priority.TERMINAL
        self._entries_bytes -= entry.size_bytes
        if not queue.length:
            del self._queues[entry.execution_id]

    def _end_coalescing(self, entries: Iterable[Entry | CoalescibleWrite]) -> None:
        for entry in entries:
            if entry.coalesce_key is None:
                continue
            key = (entry.execution_id, entry.coalesce_key)
            waiting = self._coalescible.get(key)
            if waiting is not None and waiting.seq == entry.seq:
                del self._coalescible[key]
                self._queues[entry.execution_id].coalescible -= 1


@dataclass(frozen=True, slots=True)
class IndexSnapshot:
    """The part of the file that memory holds too, read at once when the file is opened."""

    spool_id: str
    next_seq: int
    has_batch: bool
    queues: list[tuple[int, int, list[int], list[int], int]]
    """Per execution: its id, first number, entries and the oldest one's time by priority, bytes on
    disk."""
    coalesced_count: int
    skipped_count: int
    """Kept writes that an operator has skipped."""
    permissions: StoredRows

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> "IndexSnapshot":
        counts = ", ".join(f"sum(priority = {int(priority)})" for priority in Priority)
        oldest = ", ".join(
            f"min(CASE WHEN priority = {int(priority)} THEN seq END)" for priority in Priority
        )
        queues = connection.execute(
            f"SELECT execution_id, min(seq), sum(length(payload) + ?), {counts}, {oldest}"  # noqa: S608
            " FROM entries GROUP BY execution_id",
            (ENTRY_OVERHEAD_BYTES,),
        ).fetchall()
        max_seq, coalesced_count, has_batch, skipped_count = connection.execute(
            # `max_seq` remembers numbers that are in no table any more.
            "SELECT max((SELECT coalesce(max(seq), 0) FROM entries),"
            " (SELECT coalesce(max(seq), 0) FROM settled),"
            " (SELECT coalesce(max(seq), 0) FROM coalesced),"
            " (SELECT value FROM meta WHERE name = 'max_seq')),"
            " (SELECT count(*) FROM coalesced), EXISTS (SELECT 1 FROM in_flight),"
            " (SELECT count(*) FROM settled WHERE instr(problem, ?))",
            (f'"type":"{WriteSkipped.slug}"'.encode(),),
        ).fetchone()
        return cls(
            spool_id=schema.read_meta(connection)["spool_id"],
            next_seq=max_seq + 1,
            has_batch=bool(has_batch),
            queues=[
                (
                    execution_id,
                    first_seq,
                    list(by_priority[: len(Priority)]),
                    [_made_at_ms(connection, seq) for seq in by_priority[len(Priority) :]],
                    size_bytes,
                )
                for execution_id, first_seq, size_bytes, *by_priority in queues
            ],
            coalesced_count=coalesced_count,
            skipped_count=skipped_count,
            permissions=StoredRows.of(connection),
        )


def _made_at_ms(connection: sqlite3.Connection, seq: int | None) -> int:
    """When this entry was made; 0 for None."""
    if seq is None:
        return 0
    query = "SELECT payload FROM entries WHERE seq = ?"
    return made_at_ms_of(connection.execute(query, (seq,)).fetchone()[0])
