"""The writes that were settled lately, for the operator's page."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from sidecar.spool.entry import Entry, WriteRecord, WriteState

MAX_WRITES = 500
MAX_PER_BATCH = 100
"""The newest of a batch: a full one of a thousand costs a quarter of a millisecond here."""


class _Dated(msgspec.Struct):
    made_at_ms: int


_dated = msgspec.json.Decoder(_Dated)


@dataclass(frozen=True, slots=True)
class RecentWrite:
    """One settled write; times in milliseconds by the spool's clock."""

    seq: int
    execution_id: int
    user_id: int
    op: str
    state: WriteState
    problem: str | None
    made_at_ms: int
    sent_at_ms: int
    settled_at_ms: int


class RecentWrites:
    """The last `MAX_WRITES`, the oldest first. Filled once a batch, not once a request."""

    def __init__(self) -> None:
        self._writes: deque[RecentWrite] = deque(maxlen=MAX_WRITES)

    def add(
        self,
        entries: Sequence[Entry],
        records: Iterable[WriteRecord],
        sent_at_ms: int,
        settled_at_ms: int,
    ) -> None:
        """The members of a batch that are settled now."""
        settled = {record.seq: record for record in records}
        for entry in entries[-MAX_PER_BATCH:]:
            record = settled.get(entry.seq)
            if record is not None:
                self._writes.append(
                    RecentWrite(
                        entry.seq,
                        entry.execution_id,
                        entry.user_id,
                        entry.op,
                        record.state,
                        str(record.problem.get("type")) if record.problem else None,
                        _dated.decode(entry.payload).made_at_ms,
                        sent_at_ms,
                        settled_at_ms,
                    )
                )

    def since(self, at_ms: int) -> list[RecentWrite]:
        """Those settled since then, the newest first."""
        return [write for write in reversed(self._writes) if write.settled_at_ms >= at_ms]
