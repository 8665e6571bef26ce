"""Batches: cut, sent again until they are answered, settled."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from sidecar.spool import bindings, ledger, settling, space
from sidecar.spool.bindings import BindingIndex
from sidecar.spool.entry import Batch, Entry, Outcome, WriteRecord
from sidecar.spool.fault_injection import FaultInjector, FaultPoint
from sidecar.spool.file import SpoolFile
from sidecar.spool.ledger import FormedBatch
from sidecar.spool.queues import QueueIndex
from sidecar.spool.snapshot import Snapshot
from sidecar.spool.space import Reclaimer

BATCH_MAX_ENTRIES = 1_000
BATCH_MAX_BYTES = 4 * 1024 * 1024 - 64 * 1024  # a batch is at most 4 MiB, its head included


class Batching:
    """The half of `Spool` that delivery works with; it owns what is declared here."""

    queues: QueueIndex
    bindings: BindingIndex
    now_ms: Callable[[], int]
    on_corrupted: Callable[[Sequence[WriteRecord]], None]
    _file: SpoolFile
    _faults: FaultInjector
    _monotonic: Callable[[], float]
    _reclaimer: Reclaimer
    _load: Callable[[Snapshot], None]
    _has_batch: bool
    _settling: tuple[Entry, ...]
    _epochs_begun: int
    _damaged_batches: int

    async def in_flight(self) -> Batch | None:
        """The batch to send again. A damaged one cannot be: a new epoch begins instead."""
        if not self._has_batch:
            return None
        cut: FormedBatch | None = await self._file.write(ledger.in_flight, needs_sync=False)
        if cut is not None:
            self._has_batch = cut.batch is not None
            return cut.batch

        def abandon(connection: sqlite3.Connection) -> tuple[list[WriteRecord], Snapshot]:
            return ledger.abandon_batch(connection, self._file.keep_rows), Snapshot.of(connection)

        def index(abandoned: tuple[list[WriteRecord], Snapshot]) -> None:
            records, snapshot = abandoned
            self._epochs_begun += 1
            self._damaged_batches += 1
            self._load(snapshot)
            self.on_corrupted(records)

        await self._file.write(abandon, index, urgent=True)
        return None

    async def cut(
        self, *, flush: bool = False, max_entries: int = BATCH_MAX_ENTRIES
    ) -> Batch | None:
        """Fixes the next batch on disk. None when nothing is due."""
        ranked = self.queues.ranked(self._monotonic(), max_entries, flush=flush)
        if not ranked:
            return None
        self._faults.hit(FaultPoint.BEFORE_CUT)

        def fix(connection: sqlite3.Connection) -> tuple[FormedBatch, Snapshot | None]:
            if ledger.has_batch(connection):  # `cut_with_next_append` was there first
                return ledger.in_flight(connection) or FormedBatch(None, []), None
            cut = ledger.cut(connection, ranked, max_entries, BATCH_MAX_BYTES, self._file.keep_rows)
            # Of a damaged entry only the counts of its queue are known: the index is made anew,
            # as it is should it ever name executions that have nothing to cut.
            is_stale = bool(cut.set_aside) or cut.batch is None
            return cut, Snapshot.of(connection) if is_stale else None

        def index(fixed: tuple[FormedBatch, Snapshot | None]) -> Batch | None:
            cut, snapshot = fixed
            if snapshot is not None:
                self._load(snapshot)
                self.on_corrupted(cut.set_aside)
            if cut.batch is not None:
                self._has_batch = True
                self.queues.cut(cut.batch.entries)
            return cut.batch

        batch: Batch | None = await self._file.write(fix, index, urgent=True)
        self._faults.hit(FaultPoint.AFTER_CUT)
        return batch

    async def cut_with_next_append(self) -> Batch:
        """In an idle system: the next write is stored and cut in one commit, one sync for both.

        Answers only if that could be done; otherwise `on_append` tells that there is something
        to `cut`. Cancel it first then.
        """

        def fix(connection: sqlite3.Connection) -> Batch | None:
            batch = ledger.cut_all(connection, BATCH_MAX_ENTRIES, BATCH_MAX_BYTES)
            if batch is not None:
                self._faults.hit(FaultPoint.BEFORE_CUT)
            return batch

        def index(batch: Batch) -> Batch:
            self._has_batch = True
            self.queues.cut(batch.entries)
            return batch

        batch: Batch = await self._file.write_with_others(fix, index)
        self._faults.hit(FaultPoint.AFTER_CUT)
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
        consequences = bindings.consequences(batch.entries, answered)
        now_ms = self.now_ms()

        def take(connection: sqlite3.Connection) -> tuple[list[WriteRecord], bool]:
            bindings.settle(connection, consequences, now_ms)
            return settling.settle(connection, kept), space.is_mostly_free(connection)

        def index(taken: tuple[list[WriteRecord], bool]) -> list[WriteRecord]:
            records, is_mostly_free = taken
            self._has_batch = False
            ended = {record.seq for record in records}
            gone = [entry for entry in batch.entries if entry.seq in ended]
            for entry in gone:
                self.queues.remove(entry)
            self.queues.coalesced_count -= len(records) - len(gone)
            left = {entry.execution_id for entry in batch.entries if entry.seq not in ended}
            self.queues.hold(left, self._monotonic())
            self.bindings.settle(consequences, now_ms)
            tell(records)
            if is_mostly_free:
                self._reclaimer.begin()
            return records

        self._faults.hit(FaultPoint.BEFORE_SETTLE)
        self._settling = batch.entries
        try:
            # Not synced: without it the batch would be sent again, and answered as before.
            settled: list[WriteRecord] = await self._file.write(
                take, index, urgent=True, needs_sync=False
            )
            self._faults.hit(FaultPoint.AFTER_SETTLE)
        finally:
            self._settling = ()
        return settled

    async def start_epoch(self) -> str:
        def index(epoch: str) -> str:
            self._has_batch = False
            self._epochs_begun += 1
            return epoch

        epoch: str = await self._file.write(ledger.begin_epoch, index)
        return epoch
