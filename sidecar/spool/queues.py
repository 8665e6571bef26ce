"""The executions' queues in brief: what `cut` chooses by, kept in memory.

An index of the file, made again whenever the file is opened, and changed in the order of its
commits only. Per execution it holds a few numbers, so that a full spool costs little memory; the
entries themselves stay on disk.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sidecar.spool.capacity import Amount
from sidecar.spool.entry import MERGED_BYTES, Entry, Priority

MERGEABLE_KEPT = 10_000
"""Waiting size-only writes that can still be replaced; beyond it the oldest go as they are."""

HOLD_BASE_S = 0.05
HOLD_MAX_S = 2.0
"""A deferred execution (its row is locked by someone else) is left alone this long, doubling."""


@dataclass(frozen=True, slots=True)
class CoalescibleWrite:
    """A waiting size-only write, as far as one that takes its place has to know it."""

    seq: int
    execution_id: int
    user_id: int
    priority: Priority
    coalesce_key: str
    size_bytes: int


@dataclass(slots=True)
class Queue:
    """One execution's unsettled entries: how many of each priority, and the oldest number."""

    first_seq: int
    """No entry is older. One that took an older one's place is ranked by that one's number while
    it is the oldest."""
    counts: list[int] = field(default_factory=lambda: [0] * len(Priority))
    mergeable: int = 0
    mergeable_since: float = 0.0
    deferred_until: float = 0.0
    holds: int = 0
    is_begun: bool = False
    """Whether the last batch took only a part of it."""

    @property
    def length(self) -> int:
        return sum(self.counts)

    @property
    def priority(self) -> Priority:
        return next(priority for priority in Priority if self.counts[priority])

    @property
    def rank(self) -> tuple[Priority, bool, int]:
        """Most urgent first, then the longest waiting. A run's end that did not fit in one batch
        goes on before the ends of other runs."""
        priority = self.priority
        return priority, priority is Priority.TERMINAL and not self.is_begun, self.first_seq

    def due_at(self, merge_window_s: float) -> float:
        """When it may be cut: not while held, nor while all it has waits for replacements."""
        merging = self.mergeable == self.length
        return max(self.deferred_until, self.mergeable_since + merge_window_s if merging else 0.0)


class QueueIndex:
    """All queues. Times are of a monotonic clock, in seconds."""

    def __init__(self, merge_window_s: float) -> None:
        self._merge_window_s = merge_window_s
        self._terminal_count = 0
        self._queues: dict[int, Queue] = {}
        self._mergeable: OrderedDict[tuple[int, str], CoalescibleWrite] = OrderedDict()
        self.entry_count = 0
        self.coalesced_count = 0
        """Writes whose place another took: acknowledged, so their end has to be told."""
        self._entries_bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._entries_bytes + self.coalesced_count * MERGED_BYTES

    @property
    def amount(self) -> Amount:
        """What the limits count."""
        return Amount(self.entry_count + self.coalesced_count, self.size_bytes)

    def length(self, execution_id: int) -> int:
        queue = self._queues.get(execution_id)
        return queue.length if queue else 0

    def lengths(self) -> dict[int, int]:
        """How many entries wait, of each execution that has any."""
        return {execution_id: queue.length for execution_id, queue in self._queues.items()}

    def mergeable(self, execution_id: int, coalesce_key: str | None) -> CoalescibleWrite | None:
        """The waiting size-only write to the same row, unless a batch has taken it."""
        return (
            self._mergeable.get((execution_id, coalesce_key)) if coalesce_key is not None else None
        )

    def restore(self, execution_id: int, first_seq: int, counts: list[int], size: int) -> None:
        """Takes an execution's summary from the file, at start."""
        self._queues[execution_id] = Queue(first_seq, counts)
        self.entry_count += sum(counts)
        self._terminal_count += counts[Priority.TERMINAL]
        self._entries_bytes += size

    def add(self, entry: Entry, now: float) -> None:
        queue = self._queues.setdefault(entry.execution_id, Queue(entry.seq))
        queue.counts[entry.priority] += 1
        self.entry_count += 1
        self._terminal_count += entry.priority is Priority.TERMINAL
        self._entries_bytes += entry.size_bytes
        if entry.coalesce_key is not None:
            older = self._mergeable.get((entry.execution_id, entry.coalesce_key))
            if older is not None:
                self._end_merging([older])  # only the newest to a row may still be replaced
            if not queue.mergeable:
                queue.mergeable_since = now
            queue.mergeable += 1
            self._mergeable[entry.execution_id, entry.coalesce_key] = CoalescibleWrite(
                entry.seq,
                entry.execution_id,
                entry.user_id,
                entry.priority,
                entry.coalesce_key,
                entry.size_bytes,
            )
            if len(self._mergeable) > MERGEABLE_KEPT:
                self._end_merging([next(iter(self._mergeable.values()))])

    def replace(self, replaced: CoalescibleWrite, entry: Entry, now: float) -> None:
        """A size-only write takes the place of an older one, and with it what that has waited."""
        queue = self._queues[entry.execution_id]
        since = queue.mergeable_since if queue.mergeable else now
        self.add(entry, now)
        self._discount(replaced)
        self.coalesced_count += 1
        queue.mergeable_since = since

    def cut(self, entries: Sequence[Entry]) -> None:
        """These are in a batch now: nothing may replace them any more."""
        self._end_merging(entries)
        for execution_id, count in Counter(entry.execution_id for entry in entries).items():
            queue = self._queues[execution_id]
            queue.is_begun = count < queue.length

    def hold(self, execution_ids: Iterable[int], now: float) -> None:
        """These were deferred: leave them alone for a while."""
        for execution_id in execution_ids:
            queue = self._queues.get(execution_id)
            if queue is None:
                continue  # all it had was lost to damage while the batch was under way
            queue.deferred_until = now + min(HOLD_MAX_S, HOLD_BASE_S * 2**queue.holds)
            queue.holds += 1

    def remove(self, entry: Entry) -> None:
        """The entry was settled, and with it every older one of its execution."""
        queue = self._queues[entry.execution_id]
        queue.first_seq = max(queue.first_seq, entry.seq + 1)
        queue.holds = 0
        self._discount(entry)

    @property
    def has_terminal(self) -> bool:
        """Whether the end of a run waits."""
        return self._terminal_count > 0

    def _discount(self, entry: Entry | CoalescibleWrite) -> None:
        self._end_merging([entry])
        queue = self._queues[entry.execution_id]
        queue.counts[entry.priority] -= 1
        self.entry_count -= 1
        self._terminal_count -= entry.priority is Priority.TERMINAL
        self._entries_bytes -= entry.size_bytes
        if not queue.length:
            del self._queues[entry.execution_id]

    def ranked(self, now: float, limit: int, *, flush: bool = False) -> list[int]:
        """Executions to cut from, in the order of their ranks.

        `flush` (a flush, a drain) does not wait for replacements.
        """
        window_s = 0.0 if flush else self._merge_window_s
        due = (
            (queue.rank, execution_id)
            for execution_id, queue in self._queues.items()
            if queue.due_at(window_s) <= now
        )
        return [execution_id for _, execution_id in heapq.nsmallest(limit, due)]

    def next_due_at(self) -> float | None:
        """When the first queue that is not due yet becomes so; None if there is no queue."""
        return min((q.due_at(self._merge_window_s) for q in self._queues.values()), default=None)

    def _end_merging(self, entries: Iterable[Entry | CoalescibleWrite]) -> None:
        for entry in entries:
            if entry.coalesce_key is None:
                continue
            key = (entry.execution_id, entry.coalesce_key)
            waiting = self._mergeable.get(key)
            if waiting is not None and waiting.seq == entry.seq:
                del self._mergeable[key]
                self._queues[entry.execution_id].mergeable -= 1
