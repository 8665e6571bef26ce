"""What the spool keeps: an entry, its priority, and how it ended."""

import zlib
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

ENTRY_OVERHEAD_BYTES = 256
"""What an entry costs on disk beside its document: row, index and settled row, rounded up."""
MERGED_BYTES = 64
"""What the number of a merged write costs until its replacement settles: row and index."""


class Priority(IntEnum):
    """How soon a waiting write makes its execution's turn come; lower goes first."""

    TERMINAL = 0
    STATUS = 1
    URI = 2
    NORMAL = 3


class WriteState(StrEnum):
    """What a `write_id` stands for."""

    DURABLE = "durable"
    COMMITTED = "committed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A validated write that is about to be made durable.

    `members` are the operation's own JSON members. `coalesce_key` names the row of a size-only
    write: such writes to one row replace each other while they wait.
    """

    execution_id: int
    user_id: int
    op: str
    members: dict[str, Any]
    priority: Priority
    coalesce_key: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A durable write. `document` is its exact JSON, as it is digested and sent."""

    seq: int
    execution_id: int
    user_id: int
    op: str
    priority: Priority
    coalesce_key: str | None
    document: bytes
    chain_id: int | None = None
    """The first number of those whose place it took, if it took any."""

    @property
    def oldest_seq(self) -> int:
        """The first number that it answers for."""
        return self.seq if self.chain_id is None else self.chain_id

    @property
    def size_bytes(self) -> int:
        return len(self.document) + ENTRY_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch whose members are fixed. It is sent unchanged until it is answered."""

    epoch: str
    number: int
    digest: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How central answered one member of a batch. A refusal carries its problem document."""

    seq: int
    outcome: str
    problem: dict[str, Any] | None = None
    removed: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class WriteRecord:
    """What is known of one write: where it stands and, once settled, how it ended."""

    seq: int
    execution_id: int
    user_id: int
    op: str
    state: WriteState
    problem: dict[str, Any] | None = None
    removed: dict[str, Any] | None = None


def checksum(
    seq: int, execution_id: int, user_id: int, op: str, priority: int, document: bytes
) -> int:
    """Finds flipped bytes that SQLite would hand out without a word."""
    head = b"%d %d %d %d %s\0" % (seq, execution_id, user_id, priority, op.encode())
    return zlib.crc32(document, zlib.crc32(head))


def merged_checksum(seq: int, head: int) -> int:
    """The same of the number of a merged write."""
    return zlib.crc32(b"%d>%d" % (seq, head))


def record_checksum(
    seq: int,
    execution_id: int,
    user_id: int,
    op: str,
    state: str,
    problem: bytes | None,
    removed: bytes | None,
) -> int:
    """The same of a settled write, as it is stored."""
    head = f"{seq} {execution_id} {user_id} {op} {state} {problem is None} {removed is None}"
    return zlib.crc32(removed or b"", zlib.crc32(problem or b"", zlib.crc32(head.encode())))
