"""The spool as the rest of the sidecar uses it."""

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from sidecar.problems import SpoolVolumeFull
from sidecar.spool import batches, bindings, history, schema
from sidecar.spool.batches import BATCH_MAX_BYTES, BATCH_MAX_ENTRIES, FormedBatch
from sidecar.spool.bindings import Bindings, PermissionChanges
from sidecar.spool.capacity import RETRY_AFTER_S, CapacityGuard, SpoolLimits
from sidecar.spool.entry import (
    Batch,
    Entry,
    NewEntry,
    Outcome,
    Priority,
    WriteRecord,
    WriteState,
    seq_of_write_id,
)
from sidecar.spool.fault_injection import NO_FAULTS, FaultInjector, FaultPoint
from sidecar.spool.file import SpoolFile
from sidecar.spool.queue_index import IndexSnapshot, QueueIndex
from sidecar.spool.writer import GroupCommitWriter

COALESCE_WINDOW_S = 1.0
"""How long a size-only write may wait for a later one to the same row."""


class Spool:
    """Writes acknowledged to the CU and not yet known to be committed.

    Promise: what `append` returned is on disk; it leaves only by `settle`.
    Order: by sequence number, per execution.
    States: open -> full (above the high mark) -> open (below the low mark) -> closed.
    Methods are called on the event loop.
    Errors: `SpoolFull` (the configured limit), `SpoolVolumeFull` (the disk is full),
    `SpoolUnavailable` (the file cannot be written or read).
    """

    def __init__(
        self,
        directory: Path,
        limits: SpoolLimits,
        *,
        faults: FaultInjector = NO_FAULTS,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        new_writer: Callable[..., GroupCommitWriter] = GroupCommitWriter,
        is_replacement: bool = False,
    ) -> None:
        self._file = SpoolFile(
            directory,
            self._load,
            self._set_next_seq,
            lambda records: self.on_ended(records),  # noqa: PLW0108 (it is set later)
            faults,
            new_writer,
            is_replacement=is_replacement,
        )
        self._capacity = CapacityGuard(limits)
        self._faults = faults
        self._monotonic = monotonic
        self._monotonic_zero_s = wall_clock() - monotonic()
        """The wall clock is read once: whatever is done to the machine's later, ages are right."""
        self._next_seq = 0
        self._has_batch = False
        self._settling: tuple[Entry, ...] = ()
        """Members of a batch that is being settled: gone from the file before the index knows. They
        stay if the settle fails, as it may have been committed: until `settle_recovered`."""
        self._epochs_started = 0
        self.skipped_count = 0
        """Settled writes that an operator has skipped: those kept at open, and those since."""
        self.spool_id = ""
        self.queues = QueueIndex(COALESCE_WINDOW_S)
        self.bindings = Bindings(self._file.write, self.now_ms)
        self.on_append: list[Callable[[int], None]] = []
        """Called with the execution of each write that has become durable, before `append` returns,
        and even if its caller was cancelled."""
        self.unreported: list[WriteRecord] = []
        """Writes that ended in this way, from before `on_ended` was set."""
        self.on_ended: Callable[[Sequence[WriteRecord]], None] = self.unreported.extend
        """Called with writes that ended without central: corrupted, or skipped in an old epoch."""
        self.on_reopened: Callable[[], None] = lambda: None
        """Called when the index was loaded from the file: more may wait than was known."""

    async def open(self) -> None:
        """Opens the file, recovering it if need be. Raises OSError if another sidecar uses it, or
        if it has the format of another version."""
        await self._file.open()

    async def close(self) -> None:
        await self._file.close()

    def _load(self, snapshot: IndexSnapshot) -> None:
        """Loads the index from the file: at start, and whenever it had to be opened again."""
        self.spool_id = snapshot.spool_id
        self._has_batch = snapshot.has_batch
        self.skipped_count = snapshot.skipped_count
        self.queues = QueueIndex(COALESCE_WINDOW_S)
        for summary in snapshot.queues:
            self.queues.restore(*summary)
        self.queues.coalesced_count = snapshot.coalesced_count
        self.bindings.load(snapshot.permissions)
        self.on_reopened()

    def _set_next_seq(self, seq: int) -> None:
        """In the writer's thread, which assigns the numbers."""
        self._next_seq = max(self._next_seq, seq)

    # State

    def now_ms(self) -> int:
        """The time that dates writes and their ends: only differences matter, as central subtracts
        the age of a status from its own time."""
        return int((self._monotonic_zero_s + self._monotonic()) * 1000)

    @property
    def is_full(self) -> bool:
        """Whether ordinary writes are refused: above the high mark, until below the low one."""
        return self._capacity.is_full(self.queues.usage)

    @property
    def used_ratio(self) -> float:
        """What waits as a share of what may, in bytes or entries, whichever is more."""
        usage, whole = self.queues.usage, self._capacity.limits.whole
        return max(usage.entries / whole.entries, usage.size_bytes / whole.size_bytes)

    @property
    def disk_full(self) -> bool:
        """Whether ordinary writes are refused because the volume itself is full."""
        return self._file.disk_full

    @property
    def unavailable_because(self) -> str | None:
        """Why the volume could not be used at the last try."""
        return self._file.unavailable_because

    @property
    def last_seq(self) -> int:
        """The newest number assigned; that of any acknowledged write is at most this."""
        return self._next_seq - 1

    @property
    def high_water_bytes(self) -> int:
        """The room of ordinary writes."""
        return self._capacity.limits.high_water.size_bytes

    @property
    def writer(self) -> GroupCommitWriter:
        return self._file.writer

    @property
    def quarantined_count(self) -> int:
        """Entries found corrupted or unreadable since start."""
        return self._file.lost_count

    @property
    def epochs_started(self) -> int:
        """Epochs started since start, each because of damage or of a batch out of step."""
        return self._epochs_started + self._file.rebuild_count

    def describe(self) -> dict[str, Any]:
        """The spool's part of `/status`."""
        return {
            "spool_id": self.spool_id,
            "waiting": self.queues.entry_count,
            "waiting_terminal": self.queues.terminal_count,
            "waiting_coalesced": self.queues.coalesced_count,
            "waiting_bytes": self.queues.size_bytes,
            "full": self.is_full,
            "disk_full": self.disk_full,
            "unavailable_because": self.unavailable_because,
            "quarantined": self.quarantined_count,
            "skipped": self.skipped_count,
            "epochs_started": self.epochs_started,
            "bindings_complete": self.bindings.is_complete,
        }

    # Append

    async def append(self, new: NewEntry) -> int:
        """Makes the write durable and returns its number.

        Raises `SpoolFull` (ordinary writes above the high mark, terminal ones above the whole
        size) and `SpoolUnavailable` (the volume failed). The write of a caller that is cancelled
        stays.
        """
        is_terminal = new.priority is Priority.TERMINAL
        if self.disk_full and not is_terminal:
            await self._file.refill_reserve()
            if self.disk_full:
                raise SpoolVolumeFull(
                    "the spool's volume: what space is left is kept for terminal statuses",
                    retry_after_s=RETRY_AFTER_S,
                )
        taken = self._capacity.acquire(new, self.queues.usage)
        replaced = self.queues.coalescible(new.execution_id, new.coalesce_key)
        if replaced is not None and replaced.user_id != new.user_id:
            replaced = None
        made_at_ms = self.now_ms()
        replaces = replaced.seq if replaced is not None else None

        def store(connection: sqlite3.Connection) -> tuple[Entry, bool]:
            # Numbers are assigned here, in the order of the commits.
            seq = self._next_seq
            self._next_seq += 1
            return batches.insert(connection, seq, new, made_at_ms, replaces)

        def index(stored: tuple[Entry, bool]) -> int:
            entry, has_replaced = stored
            if has_replaced and replaced is not None:
                self.queues.replace(replaced, entry, self._monotonic(), made_at_ms)
            else:
                self.queues.add(entry, self._monotonic(), made_at_ms)
            for listener in self.on_append:
                listener(entry.execution_id)
            return entry.seq

        try:
            seq: int = await self._file.write(store, index, use_reserve=is_terminal)
        finally:
            self._capacity.release(taken)
        return seq

    # Queries: none waits for a commit under way

    def write_id(self, seq: int) -> str:
        return f"{self.spool_id}-{seq}"

    def seq_of(self, write_id: str) -> int | None:
        """The number of a write of this spool; None for anything else."""
        return seq_of_write_id(write_id, self.spool_id)

    def has_waiting(self, execution_id: int) -> bool:
        return self.queues.length(execution_id) > 0 or any(
            entry.execution_id == execution_id for entry in self._settling
        )

    async def waiting(self, execution_id: int) -> list[Entry]:
        """An execution's unsettled entries in order."""
        if not self.has_waiting(execution_id):
            return []

        def read(connection: sqlite3.Connection) -> list[Entry]:
            entries = batches.waiting(connection, execution_id)
            known = {entry.seq for entry in entries}
            entries += [
                entry
                for entry in self._settling
                if entry.execution_id == execution_id
                and entry.seq not in known
                and not history.is_refused(connection, entry.seq)
            ]
            return sorted(entries, key=lambda entry: entry.seq)

        return await self._file.read(read)

    async def are_settled_up_to(self, seq: int) -> bool:
        """Whether all writes up to this number are settled, replaced ones included."""
        oldest = await self._file.read(history.oldest)
        settling = (entry.oldest_seq for entry in self._settling)
        return min(settling, default=oldest) > seq and oldest > seq

    async def find(self, seq: int) -> WriteRecord | None:
        return await self._file.read(lambda connection: history.find(connection, seq))

    async def list_writes(
        self, user_id: int, state: WriteState | None, limit: int
    ) -> list[WriteRecord]:
        return await self._file.read(
            lambda connection: history.list_writes(connection, user_id, state, limit)
        )

    # Batches

    async def in_flight(self) -> Batch | None:
        """The batch to send again. Raises `BatchDamaged`: then `abandon_batch`."""
        if not self._has_batch:
            return None
        batch: Batch | None = await self._file.write(batches.in_flight, needs_sync=False)
        self._has_batch = batch is not None
        return batch

    async def abandon_batch(self) -> None:
        """Leaves the epoch of a damaged batch. Its corrupted members end, the others wait again."""

        def abandon(connection: sqlite3.Connection) -> tuple[str, list[WriteRecord]]:
            abandoned = batches.abandon_batch(connection, self._file.keep_rows)
            schema.write_meta(connection, bindings_lost_at_ms=self.now_ms())
            return abandoned

        await self._leave_epoch(abandon)

    async def cut(
        self,
        *,
        flush: bool = False,
        max_entries: int = BATCH_MAX_ENTRIES,
        max_bytes: int = BATCH_MAX_BYTES,
    ) -> Batch | None:
        """Fixes the next batch on disk. None if nothing is due. Raises `BatchDamaged` as above."""
        ranked = self.queues.ranked(self._monotonic(), max_entries, flush=flush)
        if not ranked:
            return None
        self._faults.hit(FaultPoint.BEFORE_CUT)

        def form(connection: sqlite3.Connection) -> tuple[FormedBatch, IndexSnapshot | None]:
            if batches.has_batch(connection):  # `cut_with_next_append` came first
                return FormedBatch(batches.in_flight(connection), []), None
            formed = batches.cut(connection, ranked, max_entries, max_bytes, self._file.keep_rows)
            # Of a corrupted entry only the counts of its queue are known, so the index is loaded
            # again; as it is should it ever name executions that have nothing to cut.
            is_stale = bool(formed.corrupted) or formed.batch is None
            return formed, IndexSnapshot.of(connection) if is_stale else None

        def index(result: tuple[FormedBatch, IndexSnapshot | None]) -> Batch | None:
            formed, snapshot = result
            if snapshot is not None:
                self._load(snapshot)
                self.on_ended(formed.corrupted)
            if formed.batch is not None:
                self._has_batch = True
                self.queues.cut(formed.batch.entries)
            return formed.batch

        batch: Batch | None = await self._file.write(form, index, use_reserve=True)
        self._faults.hit(FaultPoint.AFTER_CUT)
        return batch

    async def cut_with_next_append(self, max_bytes: int = BATCH_MAX_BYTES) -> Batch:
        """Cuts the next batch in the commit of the next append (piggyback, see `writer`).

        Returns only if that was possible; otherwise `on_append` is called and there is something
        to `cut`. Cancel this call first then.
        """

        def form(connection: sqlite3.Connection) -> Batch | None:
            batch = batches.cut_all(connection, BATCH_MAX_ENTRIES, max_bytes)
            if batch is not None:
                self._faults.hit(FaultPoint.BEFORE_CUT)
            return batch

        def index(batch: Batch) -> Batch:
            self._has_batch = True
            self.queues.cut(batch.entries)
            return batch

        batch: Batch = await self._file.piggyback(form, index)
        self._faults.hit(FaultPoint.AFTER_CUT)
        return batch

    async def settle(
        self,
        batch: Batch,
        outcomes: Iterable[Outcome],
        on_settled: Callable[[Sequence[WriteRecord]], None],
    ) -> list[WriteRecord]:
        """Stores central's outcomes of the batch. Returns the records of the settled writes.

        What they mean for bindings is stored in the same commit. `on_settled` is called before the
        writes stop being `waiting`, so that at any time the spool or its listener knows of them.
        Without outcomes the batch was withdrawn, and its members wait again.
        """
        by_seq = {outcome.seq: outcome for outcome in outcomes}
        known = [by_seq[entry.seq] for entry in batch.entries if entry.seq in by_seq]
        judged = PermissionChanges.of(batch.entries, by_seq)
        now_ms = self.now_ms()

        def store(connection: sqlite3.Connection) -> tuple[list[WriteRecord], PermissionChanges]:
            changes = bindings.without_rebound(connection, judged)
            bindings.apply(connection, changes, now_ms)
            ended = batches.with_skipped(connection, known) if batch.is_withdrawn else known
            return batches.settle(connection, ended), changes

        def index(stored: tuple[list[WriteRecord], PermissionChanges]) -> list[WriteRecord]:
            records, changes = stored
            self._has_batch = False
            settled = {record.seq for record in records}
            gone = [entry for entry in batch.entries if entry.seq in settled]
            for entry in gone:
                self.queues.remove(entry)
            self.queues.coalesced_count -= len(records) - len(gone)
            left = {entry.execution_id for entry in batch.entries if entry.seq not in settled}
            if known:
                self.queues.defer(left, self._monotonic())
            else:
                self.queues.free(left)
            if batch.is_withdrawn:
                self.skipped_count += sum(record.is_skipped for record in records)
            self.bindings.apply(changes, now_ms)
            on_settled(records)
            self._settling = ()
            return records

        self._faults.hit(FaultPoint.BEFORE_SETTLE)
        self._settling = batch.entries
        # Not synced: if it is lost, the batch is sent again and central repeats its response.
        records: list[WriteRecord] = await self._file.write(
            store, index, use_reserve=True, needs_sync=False
        )
        self._faults.hit(FaultPoint.AFTER_SETTLE)
        return records

    async def withdraw(self) -> None:
        """From now on `in_flight` is withdrawn. Synced: a copy sent later would be out of step."""
        await self._file.write(batches.withdraw, use_reserve=True)

    def settle_recovered(self) -> None:
        """The listeners know the outcome of a settle that failed."""
        self._settling = ()

    async def start_epoch(self) -> str:
        """Leaves the numbering that central does not accept; what is unsettled is cut again."""
        return await self._leave_epoch(batches.start_epoch)

    async def _leave_epoch(
        self, leave: Callable[[sqlite3.Connection], tuple[str, list[WriteRecord]]]
    ) -> str:
        def run(connection: sqlite3.Connection) -> tuple[str, list[WriteRecord], IndexSnapshot]:
            return *leave(connection), IndexSnapshot.of(connection)

        def index(left: tuple[str, list[WriteRecord], IndexSnapshot]) -> str:
            epoch, records, snapshot = left
            self._epochs_started += 1
            self._load(snapshot)
            self.on_ended(records)
            return epoch

        epoch: str = await self._file.write(run, index, use_reserve=True)
        return epoch

    # Maintenance

    async def retry_open(self) -> None:
        """Opens the file again if the volume could not be used. Raises `SpoolUnavailable`."""
        if self._file.unavailable_because is not None:
            await self._file.write(lambda connection: None)

    async def reload_index(self) -> None:
        """Loads the index in memory from the file anew. Raises `SpoolUnavailable`."""
        await self._file.write(IndexSnapshot.of, self._load, needs_sync=False)

    async def vacuum(self) -> None:
        """Returns the space of settled writes to the volume."""
        await self._file.vacuum()
