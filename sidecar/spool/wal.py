"""SQLite's write-ahead log, as far as recovery has to know it: gaps, and a copy without them.

# Why

SQLite trusts a log up to the first frame whose checksum fails, and ignores the rest without an
error. After a crash that is right: what follows was never acknowledged. After damage it is not:
acknowledged commits may follow.

    frame      1  2  3*  4  5x  6  7*        * ends a commit     x damaged
    SQLite     [      ]                      valid: 1 to 3
    ignored              4  5   6  7         commit 7 is unreachable: a gap

`WalFile` finds a gap by the frames' salts and their commit marks, without checksums, in the time
that it takes to read the headers. `copy_without_gaps` writes a log that SQLite trusts as a whole;
rows are then read by SQLite and judged by their own checksums.

Source: SQLite's "WAL-mode File Format", sections 1.1 to 1.3.
"""

import copy
import os
import struct
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from sidecar.spool.schema import PAGE_BYTES, SHM_SUFFIX, WAL_SUFFIX

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
FRAME_BYTES = FRAME_HEADER_BYTES + PAGE_BYTES
COPY_BYTES = 256 * 1024  # at a time
_VERSION = 3007000
_MAGIC = 0x377F0682  # checksums of little-endian words
_SALTS = slice(8, 16)
_FRAME_COUNT = struct.Struct("=I")
_FRAME_COUNT_AT = 16  # mxFrame in the index's first header


class Frame(NamedTuple):
    """Position of a page in the log. `number` counts from 1; `page_count` ends a commit."""

    number: int
    page_number: int
    page_count: int


class WalFile:
    """The frames of the log's present generation. Damaged ones may be among them."""

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
            # The last may be cut off; its page may hold whole rows all the same.
            for number in range(1, -((HEADER_BYTES - size) // FRAME_BYTES) + 1):
                log.seek(HEADER_BYTES + (number - 1) * FRAME_BYTES)
                heads.append(log.read(FRAME_HEADER_BYTES).ljust(FRAME_HEADER_BYTES, b"\0"))
        salts = head[16:24]
        order = "<" if head[:4] == _MAGIC.to_bytes(4) else ">"
        if head[24:32] != struct.pack(">II", *_checksum(head[:24], order)):
            # A damaged header: the first frames have the salts too.
            votes = Counter(raw[_SALTS] for raw in heads[:3])
            salts = votes.most_common(1)[0][0] if heads else b""
        for number, raw in enumerate(heads, start=1):
            if raw[_SALTS] == salts:
                self.frames.append(Frame(number, *struct.unpack_from(">II", raw)))

    def has_unreachable_commits(self, valid_frames: int) -> bool:
        """Whether commits may have been acknowledged that SQLite, trusting so many frames, does not
        see: a whole commit follows, or one that was cut off. The frames of a process that was
        killed while it wrote are neither."""
        last = max((frame.number for frame in self.frames), default=0)
        last_commit = max((frame.number for frame in self.frames if frame.page_count), default=0)
        return last_commit > valid_frames or (self.is_truncated and last > valid_frames)

    def before_last_commit(self) -> "WalFile":
        """The log without its last commit: the only one that may not have been acknowledged, as
        the next waits for its sync. It reaches back to the end of another, or, as that frame may
        be lost, to a page that is in it already: a commit has each page once."""
        left = list(self.frames)
        if not self.is_truncated:  # an unfinished commit was not cut off, but never whole
            while left and not left[-1].page_count:
                left.pop()
        pages: set[int] = set()
        while left and left[-1].page_number not in pages and not (pages and left[-1].page_count):
            pages.add(left.pop().page_number)
        earlier = copy.copy(self)
        earlier.frames = left
        earlier.is_truncated = True  # the last frame may have ended a commit, and is kept
        return earlier

    def copy_without_gaps(self, to: Path, *, pages: int, first_page: bytes) -> None:
        """Writes the log of the file `to`: our frames with new checksums, and then `first_page`.

        `pages` is the file's size. Of a page whose frame was lost, older content is left.
        """
        last_commit = max((frame.number for frame in self.frames if frame.page_count), default=0)
        frames = [
            frame
            for frame in self.frames
            # An unfinished commit was never acknowledged, unless its end was cut off.
            if (frame.number <= last_commit or self.is_truncated)
            and 0 < frame.page_number <= pages + len(self.frames)  # else its header is damaged
        ]
        page_count = max([pages, *(frame.page_number for frame in frames)])
        salts = b"gap-free"
        with to.with_name(to.name + WAL_SUFFIX).open("wb") as target:
            head = struct.pack(">IIII", _MAGIC, _VERSION, PAGE_BYTES, 0) + salts
            sums = _checksum(head, "<")
            target.write(head + struct.pack(">II", *sums))
            for frame in [*frames, Frame(0, 1, page_count)]:
                page = self._page(frame) if frame.number else first_page
                head = struct.pack(">II", frame.page_number, frame.page_count)
                sums = _checksum(page, "<", _checksum(head, "<", sums))
                target.write(head + salts + struct.pack(">II", *sums) + page)

    def _page(self, frame: Frame) -> bytes:
        with self._path.open("rb") as log:
            log.seek(HEADER_BYTES + (frame.number - 1) * FRAME_BYTES + FRAME_HEADER_BYTES)
            return log.read(PAGE_BYTES).ljust(PAGE_BYTES, b"\0")


def _checksum(raw: bytes, order: str, sums: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    first, second = sums
    for left, right in struct.iter_unpack(f"{order}II", raw):
        first = (first + left + second) & 0xFFFFFFFF
        second = (second + right + first) & 0xFFFFFFFF
    return first, second


def rewrite_and_sync(file: Path) -> None:
    """Brings the whole log to the disk, whatever became of earlier syncs (ADR 20). Raises OSError.

    The kernel reports a failed sync once, and from then on takes what it could not write for
    written: the next sync, of this process or a later one, brings only what is newer. Rewritten, it
    is newer. Also, a process that was killed in a sync leaves frames that nobody has synced, and
    whoever opens the log acts on them: a batch in flight is sent.
    """
    try:
        descriptor = os.open(file.with_name(file.name + WAL_SUFFIX), os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        at = 0
        while octets := os.pread(descriptor, COPY_BYTES, at):
            at += os.pwrite(descriptor, octets, at)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class WalIndex:
    """SQLite's index of the log, in the file that it shares with the other connections.

    Its descriptor may be closed only when no connection of this process has the database open any
    more: closing it releases all locks of the process on the file (fcntl(2)), SQLite's own too.
    """

    def __init__(self, file: Path) -> None:
        self._path = file.with_name(file.name + SHM_SUFFIX)
        self._descriptor: int | None = None

    @property
    def valid_frames(self) -> int:
        """How many frames SQLite trusts, once it has opened the log."""
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
