"""The history of a crash test: each write that was sent, and whether it was acknowledged."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count


class Kind(StrEnum):
    RESULT = "result"
    """PATCH of the execution's `result`: the value is `WRITER-NUMBER`."""
    PORT = "port"
    """PUT of a port that nobody else names: the key is the port, the value its URI."""
    SIZE = "size"
    """PATCH of a port's size, which may be merged with later ones: sizes of a port only grow."""
    END = "end"
    """PATCH to COMPLETED, the last write to an execution."""


@dataclass
class Write:
    """One call. `sent` and `ended` are times of one logical clock."""

    execution_id: int
    kind: Kind
    key: str
    value: str
    sent: int
    after: int
    """The highest number acknowledged to this execution before this was sent."""
    ended: int | None = None
    seq: int | None = None
    """The number in its acknowledgement; None if there was none, and then nothing is promised."""


@dataclass
class History:
    """Every write of a test, in the order they were sent."""

    writes: list[Write] = field(default_factory=list)
    _clock: Iterator[int] = field(default_factory=count)
    _highest: dict[int, int] = field(default_factory=dict)

    def send(self, execution_id: int, kind: Kind, key: str, value: str) -> Write:
        """Record a write before it is sent: it may arrive although no response does."""
        after = self._highest.get(execution_id, 0)
        self.writes.append(Write(execution_id, kind, key, value, next(self._clock), after))
        return self.writes[-1]

    def acknowledge(self, write: Write, write_id: str) -> None:
        """Record its acknowledgement. A write id ends with the spool's number of the write."""
        write.ended = next(self._clock)
        write.seq = int(write_id.rpartition("-")[2])
        highest = self._highest.get(write.execution_id, 0)
        self._highest[write.execution_id] = max(highest, write.seq)

    def give_up(self, write: Write) -> None:
        """The connection broke: whether the write was accepted is unknown."""
        write.ended = next(self._clock)

    def acknowledged(self) -> list[Write]:
        return [write for write in self.writes if write.seq is not None]
