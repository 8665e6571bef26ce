"""The values of the spool: an entry, its priority, a batch, and the record of how a write ended."""

import zlib
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from sidecar.problems import WriteSkipped

ENTRY_OVERHEAD_BYTES = 256
"""What an entry costs on disk beside its payload: row, index and settled row, rounded up."""
ENVELOPE_BYTES = 128
"""What a payload has beside the operation's own fields: number, execution, time, name."""
COALESCED_BYTES = 64
"""What a coalesced write costs until its replacement settles: row and index."""


class Priority(IntEnum):
    """How urgent a write is: lower goes first. An execution is ranked by its most urgent one."""

    TERMINAL = 0
    STATUS = 1
    URI = 2
    NORMAL = 3


class WriteState(StrEnum):
    """State of the write that a `write_id` names."""

    DURABLE = "durable"
    COMMITTED = "committed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class NewEntry:
    """A validated write that is not durable yet.

    `fields` are the operation's own JSON fields. `coalesce_key` names the row of a size-only write:
    a waiting one is replaced by a later one to the same row.
    """

    execution_id: int
    user_id: int
    op: str
    fields: dict[str, Any]
    priority: Priority
    coalesce_key: str | None = None

    @property
    def size_bytes(self) -> int:
        """What it will cost on disk, at most."""
        return ENTRY_OVERHEAD_BYTES + ENVELOPE_BYTES + len(msgspec.json.encode(self.fields))


@dataclass(frozen=True, slots=True)
class Entry:
    """A durable write. `payload` is its exact JSON, as it is digested and sent."""

    seq: int
    execution_id: int
    user_id: int
    op: str
    priority: Priority
    coalesce_key: str | None
    payload: bytes
    chain_id: int | None = None
    """The first number of the writes that it replaced, if it replaced any."""

    @property
    def oldest_seq(self) -> int:
        """The first number whose outcome this entry decides."""
        return self.seq if self.chain_id is None else self.chain_id

    @property
    def size_bytes(self) -> int:
        return len(self.payload) + ENTRY_OVERHEAD_BYTES

    @property
    def made_at_ms(self) -> int:
        """By the spool's clock; 0 for a payload that does not say."""
        return made_at_ms_of(self.payload)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch whose members are fixed. It is sent unchanged until central has answered it.

    `is_withdrawn`: an empty one is sent under its number instead, so that central applies no late
    copy of it. If central had applied it, its outcomes are the response.
    """

    epoch: str
    number: int
    digest: str
    entries: tuple[Entry, ...]
    is_withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """Central's result for one member of a batch. A refusal carries its problem document."""

    seq: int
    outcome: str
    problem: dict[str, Any] | None = None
    removed: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class WriteRecord:
    """State of one write and, once it is settled, its result."""

    seq: int
    execution_id: int
    user_id: int
    op: str
    state: WriteState
    problem: dict[str, Any] | None = None
    removed: dict[str, Any] | None = None

    @property
    def is_skipped(self) -> bool:
        """Whether an operator gave it up."""
        return self.problem is not None and self.problem["type"] == WriteSkipped.slug


class _MadeAt(msgspec.Struct):
    made_at_ms: int = 0


_made_at = msgspec.json.Decoder(_MadeAt)


def made_at_ms_of(payload: bytes) -> int:
    """When an entry was made, by its payload; 0 if that is damaged or does not say."""
    try:
        return _made_at.decode(payload).made_at_ms
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0


def seq_of_write_id(name: str, spool_id: str, *, allow_number: bool = False) -> int | None:
    """The number of a write of this spool, by its `write_id`, or for operators by itself; None for
    anything else."""
    owner, _, number = name.rpartition("-")
    if owner != spool_id and not (allow_number and not owner):
        return None
    is_number = number.isascii() and number.isdigit() and len(number) < 19
    return int(number) if is_number else None


def checksum(
    seq: int, execution_id: int, user_id: int, op: str, priority: int, payload: bytes
) -> int:
    """CRC of an entry. SQLite has no checksums of its own: it returns flipped bytes as they are."""
    head = b"%d %d %d %d %s\0" % (seq, execution_id, user_id, priority, op.encode())
    return zlib.crc32(payload, zlib.crc32(head))


def coalesced_checksum(seq: int, chain_id: int) -> int:
    return zlib.crc32(b"%d>%d" % (seq, chain_id))


def record_checksum(
    seq: int,
    execution_id: int,
    user_id: int,
    op: str,
    state: str,
    problem: bytes | None,
    removed: bytes | None,
) -> int:
    """CRC of a settled write as it is stored."""
    head = f"{seq} {execution_id} {user_id} {op} {state} {problem is None} {removed is None}"
    return zlib.crc32(removed or b"", zlib.crc32(problem or b"", zlib.crc32(head.encode())))
