"""What can be asked of a spool: no answer waits for a commit under way."""

from sidecar.spool import history, ledger
from sidecar.spool.entry import Entry, WriteRecord, WriteState
from sidecar.spool.file import SpoolFile
from sidecar.spool.queues import QueueIndex


class Questions:
    """The reading half of `Spool`, which owns and changes what is declared here."""

    spool_id: str
    queues: QueueIndex
    _file: SpoolFile
    _settling: tuple[Entry, ...]
    """Members of a batch whose settling is under way: gone from the file before the index knows."""

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

    async def are_settled_up_to(self, seq: int) -> bool:
        """Whether nothing is left that was durable when `seq` was the newest number.

        What took an older write's place answers for that one.
        """
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
