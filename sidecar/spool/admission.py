"""Which writes still come in: by the spool's limits, and by what its volume has left."""

import msgspec

from sidecar.problems import SpoolFull, SpoolVolumeFull
from sidecar.spool.capacity import Amount, SpoolLimits, WatermarkGate
from sidecar.spool.entry import ENTRY_OVERHEAD_BYTES, NewEntry, Priority
from sidecar.spool.file import RETRY_AFTER_S, SpoolFile

HEAD_BYTES = 128
"""What a document has beside the members of its operation: number, execution, time, name."""


class CapacityGuard:
    """Counts what is on its way to the disk beside what is there: a burst must not overfill it."""

    def __init__(self, limits: SpoolLimits, file: SpoolFile) -> None:
        self.limits = limits
        self._gate = WatermarkGate(limits)
        self._file = file
        self._on_its_way = Amount(0, 0)

    def is_full(self, held: Amount) -> bool:
        return self._gate.is_full(held)

    async def admit(self, new: NewEntry, held: Amount) -> Amount:
        """Makes room for a write beside what is `held`. Answers it, for `done`.

        Raises `SpoolFull` and `SpoolVolumeFull`.
        """
        size_bytes = ENTRY_OVERHEAD_BYTES + HEAD_BYTES + len(msgspec.json.encode(new.members))
        amount = Amount(1, size_bytes)
        is_terminal = new.priority is Priority.TERMINAL
        if self._file.disk_full and not is_terminal:
            await self._file.refill_ballast()
            if self._file.disk_full:
                raise SpoolVolumeFull(
                    "the spool's volume: what space is left is kept for the ends of runs",
                    retry_after_s=RETRY_AFTER_S,
                )
        held += self._on_its_way
        if not self._gate.admits(held, amount, is_terminal=is_terminal):
            raise SpoolFull(
                f"{held.entries} writes of at most {self.limits.max_entries} wait for central,"
                f" {held.size_bytes} of at most {self.limits.max_bytes} bytes",
                retry_after_s=RETRY_AFTER_S,
            )
        self._on_its_way += amount
        return amount

    def done(self, amount: Amount) -> None:
        """It is on disk and counted there, or it failed."""
        self._on_its_way -= amount
