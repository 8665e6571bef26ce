"""The spool as the rest of the sidecar sees it."""

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sidecar.spool import boots, ledger, permits, settling, space
from sidecar.spool.admission import Admission
from sidecar.spool.clock import SteadyClock
from sidecar.spool.entry import (
    Batch,
    Entry,
    NewEntry,
    Outcome,
    Urgency,
    WriteRecord,
)
from sidecar.spool.faults import NO_FAULTS, FaultPoint, Faults
from sidecar.spool.file import SpoolFile
from sidecar.spool.ledger import Cut
from sidecar.spool.limits import SpoolLimits
from sidecar.spool.questions import Questions
from sidecar.spool.queues import Queues
from sidecar.spool.rights import Rights
from sidecar.spool.snapshot import Snapshot
from sidecar.spool.space import Reclaimer

MERGE_WINDOW_S = 1.0
"""How long a size-only write may wait for a later one to the same row (DESIGN.md section 4)."""
BATCH_MAX_ENTRIES = 1_000
BATCH_MAX_BYTES = 4 * 1024 * 1024 - 64 * 1024  # a batch is at most 4 MiB, its head included


class Spool(Questions, Rights):
    """Writes acknowledged to the CU and not yet known to be committed.

    Promise: what `append` returned is on disk; it leaves only by `settle`.
    Order: by sequence number, per execution.
    States: open -> full (above the high mark) -> open (below the low mark) -> closed.
    Methods are called on the event loop. Errors: `SpoolFull`, `SpoolUnavailable`.
    """

    def __init__(
        self,
        directory: Path,
        limits: SpoolLimits,
        *,
        faults: Faults = NO_FAULTS,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._file = SpoolFile(directory, self._load, self._number_from, faults)
        self._admission = Admission(limits, self._file)
        self._faults = faults
        self._clock = SteadyClock(wall_clock, monotonic)
        self._monotonic = monotonic
        self._next_seq = 0
        self._has_batch = False
        self._settling: tuple[Entry, ...] = ()
        self._reclaimer = Reclaimer(self._file)
        self.queues = Queues(MERGE_WINDOW_S)
        self.permits = permits.Permits()
        self._epochs_begun = 0
        self.spool_id = ""
        self.on_binding: Callable[[int], None] = lambda execution_id: None
        """Told the execution of each binding that was kept."""
        self.boot: boots.Boot | None = None
        """The computing unit's current boot, if it has told one."""
        self.on_append: list[Callable[[int], None]] = []
        """Told the execution of each write that has become durable, before its caller is, and
        even if the caller has left."""
        self.on_set_aside: Callable[[Sequence[WriteRecord]], None] = lambda records: None
        """Called with the writes that ended because they were found damaged."""

    @property
    def is_full(self) -> bool:
        """Whether ordinary writes are refused: above the high mark, until below the low one."""
        return self._admission.is_full(self.queues.amount)

    @property
    def is_short_of_space(self) -> bool:
        """Whether ordinary writes are refused because the volume itself is full."""
        return self._file.is_short_of_space

    @property
    def unavailable_because(self) -> str | None:
        """Why the volume could not be used at the last try."""
        return self._file.unavailable_because

    def now_ms(self) -> int:
        """The time by the clock that dates writes; see `SteadyClock`."""
        return self._clock.now_ms()

    @property
    def last_seq(self) -> int:
        """The newest number given; whatever has been acknowledged has at most this one."""
        return self._next_seq - 1

    @property
    def high_water_bytes(self) -> int:
        """The room of ordinary writes."""
        return self._admission.limits.high_water.size_bytes

    @property
    def commit_count(self) -> int:
        return self._file.commit_count

    @property
    def quarantined_count(self) -> int:
        """Entries found damaged since start."""
        return self._file.lost_count

    @property
    def epochs_begun(self) -> int:
        """Epochs that had to begin anew since start."""
        return self._epochs_begun + self._file.salvage_count

    async def open(self) -> None:
        """Opens the file, or what can be saved of it. Raises OSError if another sidecar uses it."""
        await self._file.open()

    async def close(self) -> None:
        await self._reclaimer.stop()
        await self._file.close()

    def _load(self, snapshot: Snapshot) -> None:
        """Makes the index from the file: at start, and whenever it had to be opened anew."""
        self.spool_id = snapshot.spool_id
        self._has_batch = snapshot.has_batch
        self.queues = Queues(MERGE_WINDOW_S)
        for summary in snapshot.summaries:
            self.queues.restore(*summary)
        self.queues.merged_count = snapshot.merged_count
        self.permits.load(snapshot.bindings, snapshot.grants, self.now_ms())
        self.boot = snapshot.boot

    def _number_from(self, seq: int) -> None:
        """In the committer's thread, which gives the numbers."""
        self._next_seq = max(self._next_seq, seq)

    # Writes

    async def append(self, new: NewEntry) -> int:
        """Makes the write durable and answers its number.

        Raises `SpoolFull` (ordinary writes above the high mark, terminal ones above the whole
        size) and `SpoolUnavailable` (the disk refused). A caller that is cancelled leaves its
        write in place.
        """
        is_terminal = new.urgency is Urgency.TERMINAL
        amount = await self._admission.admit(new, self.queues.amount)
        replaced = self.queues.mergeable(new.execution_id, new.merge_key)
        if replaced is not None and replaced.user_id != new.user_id:
            replaced = None
        made_at_ms = self.now_ms()
        replaces = replaced.seq if replaced is not None else None

        def store(connection: sqlite3.Connection) -> tuple[Entry, bool]:
            # Numbers are given here, in the order of the commits.
            seq = self._next_seq
            self._next_seq += 1
            return ledger.insert(connection, seq, new, made_at_ms, replaces)

        def index(stored: tuple[Entry, bool]) -> int:
            entry, has_replaced = stored
            if has_replaced and replaced is not None:
                self.queues.replace(replaced, entry, self._monotonic())
            else:
                self.queues.add(entry, self._monotonic())
            for told in self.on_append:
                told(entry.execution_id)
            return entry.seq

        try:
            seq: int = await self._file.write(store, index, urgent=is_terminal)
        finally:
            self._admission.done(amount)
        return seq

    # Delivery

    async def in_flight(self) -> Batch | None:
        """The batch to send again. A damaged one cannot be: a new epoch begins instead."""
        if not self._has_batch:
            return None
        cut: Cut | None = await self._file.write(ledger.in_flight)
        if cut is not None:
            self._has_batch = cut.batch is not None
            return cut.batch

        def abandon(connection: sqlite3.Connection) -> tuple[list[WriteRecord], Snapshot]:
            return ledger.abandon_batch(connection, self._file.keep_rows), Snapshot.of(connection)

        def index(abandoned: tuple[list[WriteRecord], Snapshot]) -> None:
            records, snapshot = abandoned
            self._epochs_begun += 1
            self._load(snapshot)
            self.on_set_aside(records)

        await self._file.write(abandon, index, urgent=True)
        return None

    async def cut(self, *, hurry: bool = False) -> Batch | None:
        """Fixes the next batch on disk. None when nothing is due."""
        ranked = self.queues.ranked(self._monotonic(), BATCH_MAX_ENTRIES, hurry=hurry)
        if not ranked:
            return None
        self._faults.reach(FaultPoint.BEFORE_CUT)

        def fix(connection: sqlite3.Connection) -> tuple[Cut, Snapshot | None]:
            cut = ledger.cut(
                connection, ranked, BATCH_MAX_ENTRIES, BATCH_MAX_BYTES, self._file.keep_rows
            )
            # Of a damaged entry only the counts of its queue are known: the index is made anew,
            # as it is should it ever name executions that have nothing to cut.
            is_stale = bool(cut.set_aside) or cut.batch is None
            return cut, Snapshot.of(connection) if is_stale else None

        def index(fixed: tuple[Cut, Snapshot | None]) -> Batch | None:
            cut, snapshot = fixed
            if snapshot is not None:
                self._load(snapshot)
                self.on_set_aside(cut.set_aside)
            if cut.batch is not None:
                self._has_batch = True
                self.queues.cut(cut.batch.entries)
            return cut.batch

        batch: Batch | None = await self._file.write(fix, index, urgent=True)
        self._faults.reach(FaultPoint.AFTER_CUT)
        return batch

    async def settle(
        self,
        batch: Batch,
        outcomes: Iterable[Outcome],
        tell: Callable[[Sequence[WriteRecord]], None],
    ) -> list[WriteRecord]:
        """Takes central's answer to the batch. Answers how each settled write ended.

        What the answer means for permits is kept in the same commit. `tell` is told the records
        before the writes stop being `waiting`, so that there is no moment at which neither the
        spool nor whoever `tell` informs knows of them.
        """
        answered = {outcome.seq: outcome for outcome in outcomes}
        kept = [answered[entry.seq] for entry in batch.entries if entry.seq in answered]
        consequences = permits.consequences(batch.entries, answered)
        now_ms = self.now_ms()

        def take(connection: sqlite3.Connection) -> tuple[list[WriteRecord], bool]:
            permits.settle(connection, consequences, now_ms)
            return settling.settle(connection, kept), space.is_mostly_free(connection)

        def index(taken: tuple[list[WriteRecord], bool]) -> list[WriteRecord]:
            records, is_mostly_free = taken
            self._has_batch = False
            ended = {record.seq for record in records}
            gone = [entry for entry in batch.entries if entry.seq in ended]
            for entry in gone:
                self.queues.remove(entry)
            self.queues.merged_count -= len(records) - len(gone)
            left = {entry.execution_id for entry in batch.entries if entry.seq not in ended}
            self.queues.hold(left, self._monotonic())
            self.permits.settle(consequences, now_ms)
            tell(records)
            if is_mostly_free:
                self._reclaimer.begin()
            return records

        self._faults.reach(FaultPoint.BEFORE_SETTLE)
        self._settling = batch.entries
        try:
            settled: list[WriteRecord] = await self._file.write(take, index, urgent=True)
            self._faults.reach(FaultPoint.AFTER_SETTLE)
        finally:
            self._settling = ()
        return settled

    async def begin_epoch(self) -> str:
        def index(epoch: str) -> str:
            self._has_batch = False
            self._epochs_begun += 1
            return epoch

        epoch: str = await self._file.write(ledger.begin_epoch, index)
        return epoch

    # Space

    async def reclaim(self) -> None:
        """Gives the space of settled writes back to the volume."""
        await self._reclaimer.reclaim()
