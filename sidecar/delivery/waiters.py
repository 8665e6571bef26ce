"""Those who wait for writes to end: one write's caller, and whoever flushes."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

from sidecar.problems import SpoolUnavailable, WriteCorrupted
from sidecar.spool.entry import WriteRecord, WriteState
from sidecar.spool.spool import Spool


class SettlementWaiters:
    """Wakes them by what is told here, and answers them by what the spool's file says.

    `wake` is called when somebody begins to wait: what waits on purpose should go.
    """

    def __init__(self, spool: Spool, wake: Callable[[], None]) -> None:
        self._spool = spool
        self._wake = wake
        self._watched: dict[int, list[asyncio.Future[WriteRecord | None]]] = {}
        self._flushes = 0
        self._progress = asyncio.Event()

    def __bool__(self) -> bool:
        return self.is_flushing or bool(self._watched)

    @property
    def is_flushing(self) -> bool:
        return self._flushes > 0

    def tell(self, records: Sequence[WriteRecord]) -> None:
        """So these ended."""
        for record in records:
            self._answer(record.seq, record)
        self._answer_fast()

    def recheck_all(self) -> None:
        """The file was opened anew: any write may have ended without a word."""
        for seq in list(self._watched):
            self._answer(seq, None)
        self._answer_fast()

    async def until_ended(self, seq: int, timeout_s: float) -> WriteRecord | None:
        """How the write ended, or None if the time was not enough."""
        is_known = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    future = self._watch(seq)  # first: it may end while the file is asked
                    try:
                        ended = await self._end_of(seq, is_known) or await future
                    finally:
                        self._forget(seq, future)
                    if ended is not None:
                        return ended
                    is_known = False
        return None

    async def wait_flushed(self, timeout_s: float) -> int:
        """Waits until all that is durable now has ended. Answers how many writes still wait.

        Raises `SpoolUnavailable`: then nobody knows.
        """
        last_seq = self._spool.last_seq
        self._flushes += 1
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
            self._flushes -= 1
        return max(1, self._spool.queues.entry_count)

    async def _end_of(self, seq: int, is_known: bool) -> WriteRecord | None:
        """None while it waits. A write that was there and is not any more was lost to damage."""
        try:
            record = await self._spool.find(seq)
        except SpoolUnavailable:
            return None  # it will be opened anew, and that is told
        if record is None and not is_known:
            problem = WriteCorrupted("lost from the sidecar's damaged spool").document()
            return WriteRecord(seq, 0, 0, "", WriteState.REFUSED, problem)
        return record if record is not None and record.state is not WriteState.DURABLE else None

    def _watch(self, seq: int) -> "asyncio.Future[WriteRecord | None]":
        future: asyncio.Future[WriteRecord | None] = asyncio.get_running_loop().create_future()
        self._watched.setdefault(seq, []).append(future)
        self._wake()
        return future

    def _answer(self, seq: int, record: WriteRecord | None) -> None:
        for future in self._watched.pop(seq, ()):
            if not future.done():
                future.set_result(record)

    def _forget(self, seq: int, future: "asyncio.Future[WriteRecord | None]") -> None:
        left = [other for other in self._watched.get(seq, ()) if other is not future]
        if left:
            self._watched[seq] = left
        else:
            self._watched.pop(seq, None)

    def _answer_fast(self) -> None:
        self._progress.set()
        self._progress = asyncio.Event()
