"""The spool as the rest of the sidecar sees it."""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from sidecar.problems import SpoolFull
from sidecar.spool import boots, ledger, permits
from sidecar.spool.entry import (
    ENTRY_OVERHEAD_BYTES,
    Batch,
    Entry,
    NewEntry,
    Outcome,
    Urgency,
    WriteRecord,
    WriteState,
)
from sidecar.spool.faults import NO_FAULTS, FaultPoint, Faults
from sidecar.spool.file import SpoolFile
from sidecar.spool.limits import SpoolLimits
from sidecar.spool.queues import Queues

MERGE_WINDOW_S = 1.0
"""How long a size-only write may wait for a later one to the same row (DESIGN.md section 4)."""
BATCH_MAX_ENTRIES = 1_000
BATCH_MAX_BYTES = 4 * 1024 * 1024 - 64 * 1024  # a batch is at most 4 MiB, its head included


class Spool:
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
        self._file = SpoolFile(directory, self._load, faults)
        self._limits = limits
        self._faults = faults
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._is_full = False
        self._next_seq = 0
        self._settling: tuple[Entry, ...] = ()
        self._appending_bytes = 0
        self.queues = Queues(MERGE_WINDOW_S)
        self.permits = permits.Permits()
        self._epochs_begun = 0
        self.spool_id = ""
        self.on_append: Callable[[int], None] = _nobody
        self.on_binding: Callable[[int], None] = _nobody
        self.boot: boots.Boot | None = None
        """The computing unit's current boot, if it has told one."""
        """Told the execution of each write that has become durable, before its caller is, and
        even if the caller has left."""

    @property
    def is_full(self) -> bool:
        """Whether ordinary writes are refused: above the high mark, until below the low one."""
        return self._is_full

    @property
    def last_seq(self) -> int:
        """The newest number given; whatever has been acknowledged has at most this one."""
        return self._next_seq - 1

    @property
    def high_water_bytes(self) -> int:
        """The room of ordinary writes."""
        return self._limits.high_water_bytes

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
        """Opens the file, or what can be saved of it. Raises OSError for an unusable directory."""
        await self._file.open()

    async def close(self) -> None:
        await self._file.close()

    def _load(self, connection: sqlite3.Connection) -> None:
        self.spool_id = ledger.properties(connection)["spool_id"]
        self._next_seq = max(self._next_seq, ledger.next_seq(connection))
        queues = Queues(MERGE_WINDOW_S)
        for summary in ledger.summaries(connection):
            queues.restore(*summary)
        queues.restored(self._next_seq - 1)
        self.queues = queues
        self.permits.load(connection)
        self.boot = boots.load(connection)

    # Writes

    async def append(self, new: NewEntry) -> int:
        """Makes the write durable and answers its number.

        Raises `SpoolFull` (ordinary writes above the high mark, terminal ones above the whole
        size) and `SpoolUnavailable` (the disk refused). A caller that is cancelled leaves its
        write in place.
        """
        size_bytes = ENTRY_OVERHEAD_BYTES + len(msgspec.json.encode(new.members))
        self._admit(new, size_bytes)
        replaced = self.queues.mergeable(new.execution_id, new.merge_key)
        if replaced is not None and replaced.user_id != new.user_id:
            replaced = None
        made_at_ms = int(self._wall_clock() * 1000)
        replaces = replaced.seq if replaced is not None else None

        def store(connection: sqlite3.Connection) -> tuple[Entry, bool]:
            # Numbers are given here, in the order of the commits.
            seq = self._next_seq
            self._next_seq += 1
            return ledger.insert(connection, seq, new, made_at_ms, replaces)

        async def store_and_index() -> int:
            try:
                entry, has_replaced = await self._file.write(
                    store, urgent=new.urgency is Urgency.TERMINAL
                )
            finally:
                self._appending_bytes -= size_bytes
            if has_replaced and replaced is not None:
                self.queues.replace(replaced, entry, self._monotonic())
            else:
                self.queues.add(entry, self._monotonic())
            self.on_append(entry.execution_id)
            return entry.seq

        self._appending_bytes += size_bytes
        return await asyncio.shield(store_and_index())

    def _admit(self, new: NewEntry, size_bytes: int) -> None:
        size = self.queues.size_bytes + self._appending_bytes + size_bytes
        mark = self._limits.low_water_bytes if self._is_full else self._limits.high_water_bytes
        self._is_full = size > mark
        has_room = size <= self._limits.max_bytes
        if has_room and (new.urgency is Urgency.TERMINAL or not self._is_full):
            return
        raise SpoolFull(
            f"{self.queues.entry_count} writes wait for central, {size} of at most"
            f" {self._limits.max_bytes} bytes",
            retry_after_s=5,
        )

    # Delivery

    async def in_flight(self) -> Batch | None:
        """The batch to send again. A damaged one cannot be: a new epoch begins instead."""
        batch, damaged = await self._file.write(ledger.in_flight)
        if damaged:
            await self._set_aside(damaged)
            await self.begin_epoch()
            return None
        return batch

    async def cut(self, *, hurry: bool = False) -> Batch | None:
        """Fixes the next batch on disk. None when nothing is due."""
        ranked = self.queues.ranked(self._monotonic(), BATCH_MAX_ENTRIES, hurry=hurry)
        if not ranked:
            return None
        self._faults.reach(FaultPoint.BEFORE_CUT)
        batch, damaged = await self._file.write(
            lambda connection: ledger.cut(connection, ranked, BATCH_MAX_ENTRIES, BATCH_MAX_BYTES),
            urgent=True,
        )
        self._faults.reach(FaultPoint.AFTER_CUT)
        if damaged:
            await self._set_aside(damaged)
        if batch is not None:
            self.queues.cut(batch.entries)
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
        now_ms = int(self._wall_clock() * 1000)

        def take(connection: sqlite3.Connection) -> list[WriteRecord]:
            permits.settle(connection, consequences, now_ms)
            return ledger.settle(connection, kept)

        self._faults.reach(FaultPoint.BEFORE_SETTLE)
        self._settling = batch.entries
        try:
            records = await self._file.write(take, urgent=True)
            self._faults.reach(FaultPoint.AFTER_SETTLE)
            deferred: set[int] = set()
            for entry in batch.entries:
                outcome = answered.get(entry.seq)
                if outcome is None or outcome.outcome == "deferred":
                    deferred.add(entry.execution_id)
                else:
                    self.queues.remove(entry)
            self.queues.hold(deferred, self._monotonic())
            self.permits.settle(consequences, now_ms)
            tell(records)
        finally:
            self._settling = ()
        return records

    async def begin_epoch(self) -> str:
        self._epochs_begun += 1
        return await self._file.write(ledger.begin_epoch)

    # What is asked about writes

    def write_id(self, seq: int) -> str:
        """The name a caller knows the write by."""
        return f"{self.spool_id}-{seq}"

    def seq_of(self, write_id: str) -> int | None:
        """The number of a write of this spool; None for anything else."""
        spool_id, _, seq = write_id.partition("-")
        number = int(seq) if seq.isascii() and seq.isdigit() and len(seq) < 19 else None
        return number if spool_id == self.spool_id else None

    async def waiting(self, execution_id: int) -> list[Entry]:
        """An execution's unsettled entries in order; does not wait for a commit under way."""
        if not self.queues.length(execution_id):
            return []
        entries = await self._file.read(lambda connection: ledger.waiting(connection, execution_id))
        known = {entry.seq for entry in entries}
        entries += [
            entry
            for entry in self._settling
            if entry.execution_id == execution_id and entry.seq not in known
        ]
        return sorted(entries, key=lambda entry: entry.seq)

    async def find(self, seq: int) -> WriteRecord | None:
        return await self._file.read(lambda connection: ledger.find(connection, seq))

    async def list_writes(
        self, user_id: int, state: WriteState | None, limit: int
    ) -> list[WriteRecord]:
        return await self._file.read(
            lambda connection: ledger.list_writes(connection, user_id, state, limit)
        )

    # Who may write

    async def record_binding(self, binding: permits.Binding, grant: permits.Grant) -> None:
        """Keeps central's yes: this sidecar may write to the execution, for this token."""
        await self._file.write(lambda connection: permits.record(connection, binding, grant))
        self.permits.add(binding, grant)
        self.on_binding(binding.execution_id)

    async def begin_boot(self, boot: boots.Boot, closed: Sequence[int]) -> None:
        """Keeps the unit's new boot; the runs that central closed for it are over."""
        over = permits.Consequences(ended=frozenset(closed), lost=frozenset())
        now_ms = int(self._wall_clock() * 1000)

        def take(connection: sqlite3.Connection) -> None:
            boots.record(connection, boot)
            permits.settle(connection, over, now_ms)

        await self._file.write(take)
        self.boot = boot
        self.permits.settle(over, now_ms)

    async def purge_permits(self) -> None:
        now_ms = int(self._wall_clock() * 1000)
        await self._file.write(lambda connection: permits.purge(connection, now_ms))
        self.permits.purge(now_ms)

    async def reclaim(self) -> None:
        """Gives the space of settled writes back to the volume."""
        await self._file.write(ledger.reclaim)
        await self._file.refill_ballast()

    async def _set_aside(self, seqs: list[int]) -> None:
        rows = await self._file.write(lambda connection: ledger.set_aside(connection, seqs))
        await self._file.keep_rows(rows)
        # Only the counts of the queue are known of a damaged entry: make the index anew.
        await self._file.write(self._load)


def _nobody(execution_id: int) -> None:
    """Nobody needs to know."""
