"""The spool as the rest of the sidecar sees it."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sidecar.spool import ledger
from sidecar.spool.admission import CapacityGuard
from sidecar.spool.batching import Batching
from sidecar.spool.bindings import BindingIndex, Boot
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.clock import MonotonicWallClock
from sidecar.spool.entry import (
    Entry,
    NewEntry,
    Priority,
    WriteRecord,
)
from sidecar.spool.fault_injection import NO_FAULTS, FaultInjector
from sidecar.spool.file import SpoolFile
from sidecar.spool.questions import Questions
from sidecar.spool.queues import QueueIndex
from sidecar.spool.rights import Rights
from sidecar.spool.snapshot import Snapshot
from sidecar.spool.space import Reclaimer

COALESCE_WINDOW_S = 1.0
"""How long a size-only write may wait for a later one to the same row (DESIGN.md section 4)."""


class Spool(Questions, Rights, Batching):
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
        faults: FaultInjector = NO_FAULTS,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._file = SpoolFile(
            directory, self._load, self._number_from, self._found_damaged, faults
        )
        self._admission = CapacityGuard(limits, self._file)
        self._faults = faults
        self._clock = MonotonicWallClock(wall_clock, monotonic)
        self._monotonic = monotonic
        self._next_seq = 0
        self._has_batch = False
        self._settling: tuple[Entry, ...] = ()
        self._reclaimer = Reclaimer(self._file)
        self.queues = QueueIndex(COALESCE_WINDOW_S)
        self.bindings = BindingIndex()
        self._epochs_begun = 0
        self._damaged_batches = 0
        self.spool_id = ""
        self.on_bound: Callable[[int], None] = lambda execution_id: None
        """Told the execution of each binding that was kept."""
        self.boot: Boot | None = None
        """The computing unit's current boot, if it has told one."""
        self.on_append: list[Callable[[int], None]] = []
        """Told the execution of each write that has become durable, before its caller is, and
        even if the caller has left."""
        self.unreported: list[WriteRecord] = []
        """Writes that ended because they were found damaged, before anyone listened."""
        self.on_corrupted: Callable[[Sequence[WriteRecord]], None] = self.unreported.extend
        """Called with the writes that ended because they were found damaged."""
        self.on_reopened: Callable[[], None] = lambda: None
        """Called when the index was made from the file: more may wait than was known."""

    @property
    def is_full(self) -> bool:
        """Whether ordinary writes are refused: above the high mark, until below the low one."""
        return self._admission.is_full(self.queues.amount)

    @property
    def disk_full(self) -> bool:
        """Whether ordinary writes are refused because the volume itself is full."""
        return self._file.disk_full

    @property
    def unavailable_because(self) -> str | None:
        """Why the volume could not be used at the last try."""
        return self._file.unavailable_because

    def now_ms(self) -> int:
        """The time by the clock that dates writes; see `MonotonicWallClock`."""
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
    def sync_count(self) -> int:
        return self._file.sync_count

    @property
    def quarantined_count(self) -> int:
        """Entries found damaged since start."""
        return self._file.lost_count

    @property
    def epochs_started(self) -> int:
        """Epochs that had to begin anew since start."""
        return self._epochs_begun + self._file.salvage_count

    @property
    def binding_losses(self) -> int:
        """How often since start what was bound may have been lost, with other damage."""
        return self._damaged_batches + self._file.salvage_count

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
        self.queues = QueueIndex(COALESCE_WINDOW_S)
        for summary in snapshot.summaries:
            self.queues.restore(*summary)
        self.queues.coalesced_count = snapshot.coalesced_count
        self.bindings.load(snapshot.bindings, snapshot.grants, self.now_ms())
        self.boot = snapshot.boot
        self.on_reopened()

    def _found_damaged(self, records: Sequence[WriteRecord]) -> None:
        self.on_corrupted(records)

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
        is_terminal = new.priority is Priority.TERMINAL
        amount = await self._admission.admit(new, self.queues.amount)
        replaced = self.queues.mergeable(new.execution_id, new.coalesce_key)
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

    # Space

    async def retry_open(self) -> None:
        """Opens the file again if the volume could not be used. Raises `SpoolUnavailable`."""
        if self._file.unavailable_because is not None:
            await self._file.write(lambda connection: None)

    async def vacuum(self) -> None:
        """Gives the space of settled writes back to the volume."""
        await self._reclaimer.vacuum()
