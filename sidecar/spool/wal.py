"""SQLite's write-ahead log, as far as recovery has to know it: gaps, and a copy without them.

# Why

SQLite trusts a log up to the first frame whose checksum fails, and ignores the rest without an
error. After a crash that is right: what follows was never acknowledged. After damage it is not:
acknowledged commits may follow.

    frame      1  2  3*  4  5x  6  7*        * ends a commit     x damaged
    SQLite     [      ]                      valid: 1 to 3
    ignored              4  5   6  7         commit 7 is unreachable: a gap

`WalFile` finds a gap by the frames' salts and their commit marks, without checksums, in the time
that it takes to read the headers. Only a power cut, or a kill within a frame, leaves a damaged last
commit that was never acknowledged. `copy_without_gaps` writes a log that SQLite trusts as a whole;
rows are then read by SQLite and judged by their own checksums.

Source: SQLite's "WAL-mode File Format", sections 1.1 to 1.3.
"""

import copy
import math
import os
import re
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
_SALT_PAIR = struct.Struct(">II")
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
        self.is_cut_off = False
        """Whether its last commit may have lost its end: it ends within a frame, or, without a
        power cut since, a damaged frame follows an unfinished commit."""
        self.is_last_unsure = False
        """Whether its last commit may be damaged without ever having been acknowledged."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return
        size = status.st_size
        is_before_boot = status.st_mtime < _booted_at()
        self.is_cut_off = size > HEADER_BYTES and (size - HEADER_BYTES) % FRAME_BYTES > 0
        self.is_last_unsure = self.is_cut_off or is_before_boot
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
        if self.frames and not is_before_boot and not self.frames[-1].page_count:
            following = heads[self.frames[-1].number :]
            self.is_cut_off |= bool(following) and not _is_older(following[0][_SALTS], salts)

    def has_unreachable_commits(self, valid_frames: int) -> bool:
        """Whether commits may have been acknowledged that SQLite, trusting so many frames, does not
        see: a whole commit follows, or one that was cut off. The frames of a process that was
        killed while it wrote are neither."""
        last = max((frame.number for frame in self.frames), default=0)
        last_commit = max((frame.number for frame in self.frames if frame.page_count), default=0)
        return last_commit > valid_frames or (self.is_cut_off and last > valid_frames)

    def acknowledged(self) -> "WalFile":
        """The log; without its last commit if that is unsure (no other is, as the next waits for
        its sync). It reaches back to the end of another, or, as that frame may be lost, to a page
        that is in it already: a commit has each page once."""
        if not self.is_last_unsure:
            return self
        left = list(self.frames)
        if not self.is_cut_off:  # an unfinished commit was not cut off, but never whole
            while left and not left[-1].page_count:
                left.pop()
        pages: set[int] = set()
        while left and left[-1].page_number not in pages and not (pages and left[-1].page_count):
            pages.add(left.pop().page_number)
        earlier = copy.copy(self)
        earlier.frames = left
        earlier.is_cut_off = True  # the last frame may have ended a commit, and is kept
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
            if (frame.number <= last_commit or self.is_cut_off)
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


def _booted_at() -> float:
    """When this kernel was booted, in seconds since 1970 (proc_stat(5)). If nobody can tell,
    earlier than anything was written: what is lost is then taken for acknowledged. A sandbox with a
    kernel of its own may tell its own start: its restart then looks like a power cut."""
    try:
        found = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    except OSError:
        return -math.inf
    return float(found[1]) if found is not None else -math.inf


def _is_older(salts: bytes, present: bytes) -> bool:
    """Whether a frame is left from an earlier generation: each begins with the next first salt and
    another second one. What is damaged is neither that nor ours."""
    (first, second), (our_first, our_second) = _SALT_PAIR.unpack(salts), _SALT_PAIR.unpack(present)
    is_earlier = 0 < (our_first - first) % 2**32 < 2**31
    return is_earlier and second not in {0, our_second}


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

    The log's time stays: it says whether the power was cut since its last commit.
    """
    try:
        descriptor = os.open(file.with_name(file.name + WAL_SUFFIX), os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        status = os.fstat(descriptor)
        at = 0
        while octets := os.pread(descriptor, COPY_BYTES, at):
            at += os.pwrite(descriptor, octets, at)
        os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
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
