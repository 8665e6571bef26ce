"""SQLite's write-ahead log, as far as salvage has to read it without SQLite.

SQLite believes a log up to the first frame whose checksum fails, and forgets the rest without a
word. After a crash that is right: what follows was never acknowledged. After a flipped bit it is
not: what follows was. Source: "WAL-mode File Format", sections 1.1 to 1.3.
"""

import os
import struct
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from sidecar.spool.schema import PAGE_BYTES, SHM_SUFFIX, WAL_SUFFIX

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
FRAME_BYTES = FRAME_HEADER_BYTES + PAGE_BYTES
COPIED_BYTES = 256 * 1024  # at a time
_SALTS_FROM = 8
_FRAME_COUNT = struct.Struct("=I")
_FRAME_COUNT_AT = 16  # mxFrame in the index's first header


class Frame(NamedTuple):
    """A page as the log holds it. `number` counts from 1."""

    number: int
    page_number: int
    is_commit: bool


class Log:
    """The frames that belong to the log's present generation. Damaged ones may be among them."""

    def __init__(self, file: Path) -> None:
        self._path = file.with_name(file.name + WAL_SUFFIX)
        self.frames: list[Frame] = []
        self.is_truncated = False
        """Whether it ends within a frame."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return
        self.is_truncated = size > HEADER_BYTES and (size - HEADER_BYTES) % FRAME_BYTES > 0
        with self._path.open("rb") as log:
            head = log.read(HEADER_BYTES)
            heads = []
            # The last may be cut off; a row may be whole on what there is of its page.
            for number in range(1, -((HEADER_BYTES - size) // FRAME_BYTES) + 1):
                log.seek(HEADER_BYTES + (number - 1) * FRAME_BYTES)
                heads.append(log.read(FRAME_HEADER_BYTES).ljust(FRAME_HEADER_BYTES, b"\0"))
        salts = head[16:24]
        if head[24:32] != _checksum(head[:24]):  # then the first frames have to know them
            votes = Counter(raw[_SALTS_FROM:16] for raw in heads[:3])
            salts = votes.most_common(1)[0][0] if heads else b""
        for number, raw in enumerate(heads, start=1):
            if raw[_SALTS_FROM:16] == salts:
                page_number, pages_after_commit = struct.unpack_from(">II", raw)
                self.frames.append(Frame(number, page_number, pages_after_commit > 0))

    def has_unreachable_commits(self, believed: int) -> bool:
        """Whether commits may have been acknowledged that SQLite, believing so many frames, does
        not see: a whole transaction follows, or one that was cut off. What a process left that
        was killed while it wrote is neither."""
        last = max((frame.number for frame in self.frames), default=0)
        last_commit = max((frame.number for frame in self.frames if frame.is_commit), default=0)
        return last_commit > believed or (self.is_truncated and last > believed)

    def image(self, frame: Frame) -> bytes:
        with self._path.open("rb") as log:
            log.seek(HEADER_BYTES + (frame.number - 1) * FRAME_BYTES + FRAME_HEADER_BYTES)
            return log.read(PAGE_BYTES).ljust(PAGE_BYTES, b"\0")


def write_again(file: Path) -> None:
    """Brings the whole log to the disk, whatever became of earlier syncs. Raises OSError.

    The kernel speaks of a failed sync once and from then on takes what it could not write for
    written: the next sync, of this process or of one started since, brings only what is newer.
    Written again, it is new. Also, a process that was killed in a sync leaves what nobody has
    synced, and whoever opens it acts on it: a batch in flight is sent.
    """
    try:
        descriptor = os.open(file.with_name(file.name + WAL_SUFFIX), os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        at = 0
        while octets := os.pread(descriptor, COPIED_BYTES, at):
            at += os.pwrite(descriptor, octets, at)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(raw: bytes) -> bytes:
    """Of the header; its words are little-endian where SQLite wrote it on such a machine."""
    order = "<" if raw[:4] == b"\x37\x7f\x06\x82" else ">"
    first = second = 0
    for left, right in struct.iter_unpack(f"{order}II", raw):
        first = (first + left + second) & 0xFFFFFFFF
        second = (second + right + first) & 0xFFFFFFFF
    return struct.pack(">II", first, second)


class WalIndex:
    """SQLite's index of the log, in the file it shares with the other connections.

    Its descriptor may be closed only when no connection of this process has the database open any
    more: with it go all locks that the process has on the file (fcntl(2)), SQLite's own included.
    """

    def __init__(self, file: Path) -> None:
        self._path = file.with_name(file.name + SHM_SUFFIX)
        self._descriptor: int | None = None

    @property
    def frame_count(self) -> int:
        """How many frames SQLite believes, once it has opened the log."""
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY)
            raw = os.pread(self._descriptor, _FRAME_COUNT.size, _FRAME_COUNT_AT)
            (count,) = _FRAME_COUNT.unpack(raw)
        except (OSError, struct.error):
            return 0
        return int(count)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
