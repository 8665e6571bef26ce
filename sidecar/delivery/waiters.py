"""Callers that wait for settlement: of one write, or of all that is durable (a flush)."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from sidecar.problems import SpoolUnavailable, WriteCorrupted
from sidecar.spool.entry import WriteRecord, WriteState
from sidecar.spool.spool import Spool


class SettlementWaiters:
    """Woken by `notify`; what they return comes from the spool's file.

    `wake` is called for each new waiter: what delivery delays on purpose is then due.
    """

    def __init__(self, spool: Spool, wake: Callable[[], None]) -> None:
        self._spool = spool
        self._wake = wake
        self._futures: dict[int, list[asyncio.Future[WriteRecord | None]]] = {}
        self._flush_count = 0
        self._progress = asyncio.Event()

    def __bool__(self) -> bool:
        return self.is_flushing or bool(self._futures)

    @property
    def is_flushing(self) -> bool:
        return self._flush_count > 0

    def notify(self, records: Sequence[WriteRecord]) -> None:
        """These writes are settled."""
        for record in records:
            self._resolve(record.seq, record)
        self._wake_flushes()

    def recheck_all(self) -> None:
        """The file was reopened: any write may have been settled without a notification."""
        for seq in list(self._futures):
            self._resolve(seq, None)
        self._wake_flushes()

    async def wait_settled(self, seq: int, timeout_s: float) -> WriteRecord | None:
        """The settled write's record, or None after the timeout."""
        is_first_check = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    future = self._register(seq)  # first: it may be settled during the read
                    try:
                        record = await self._settled_record(seq, is_first_check) or await future
                    finally:
                        self._unregister(seq, future)
                    if record is not None:
                        return record
                    is_first_check = False
        return None

    async def wait_flushed(self, timeout_s: float) -> int:
        """Waits until all that is durable now is settled. Returns the number of writes left.

        Raises `SpoolUnavailable`: then the number is not known.
        """
        last_seq = self._spool.last_seq
        self._flush_count += 1
        self._wake()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    progress = self._progress
                    while not await self._spool.are_settled_up_to(last_seq):
                        await progress.wait()
                        progress = self._progress
                    return 0
        finally:
            self._flush_count -= 1
        return max(1, self._spool.queues.entry_count)

    async def _settled_record(self, seq: int, is_first_check: bool) -> WriteRecord | None:
        """None while the write is unsettled. One that has vanished was lost to corruption."""
        try:
            record = await self._spool.find(seq)
        except SpoolUnavailable:
            return None  # `recheck_all` follows once the file is reopened
        if record is None and not is_first_check:
            problem = WriteCorrupted("lost from the sidecar's damaged spool").document()
            return WriteRecord(seq, 0, 0, "", WriteState.REFUSED, problem)
        return record if record is not None and record.state is not WriteState.DURABLE else None

    def _register(self, seq: int) -> "asyncio.Future[WriteRecord | None]":
        future: asyncio.Future[WriteRecord | None] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(seq, []).append(future)
        self._wake()
        return future

    def _unregister(self, seq: int, future: "asyncio.Future[WriteRecord | None]") -> None:
        futures = self._futures.get(seq, [])
        if future in futures:
            futures.remove(future)
            if not futures:
                del self._futures[seq]

    def _resolve(self, seq: int, record: WriteRecord | None) -> None:
        for future in self._futures.pop(seq, ()):
            if not future.done():
                future.set_result(record)

    def _wake_flushes(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()
