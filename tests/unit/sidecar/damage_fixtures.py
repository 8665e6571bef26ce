"""Damage to a spool's files, and an oracle for what is still readable."""

import os
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from sidecar.spool.schema import FILE_NAME, PAGE_BYTES
from sidecar.spool.wal import FRAME_BYTES, HEADER_BYTES

LOG_NAME = f"{FILE_NAME}-wal"
LEAF_HEAD_BYTES = 8
"""Of a page with rows, before the two bytes that point to each."""
ROW_POINTERS_BYTES = 128
"""At the beginning of a page: more than the tests' rows on one page need."""
ROW_HEAD_BYTES = 64
"""Of an entry's row, before its document: more than any of the tests' rows has."""


@dataclass(frozen=True)
class Damage:
    """Bytes of one file that are no longer what they were."""

    file: str
    start: int
    end: int
    is_cut_off: bool = False
    """Whether they are gone, rather than changed."""

    def covers(self, start: int, end: int) -> bool:
        return self.start < end and start < self.end


def copy_as_killed(live: Path, to: Path) -> None:
    """What a SIGKILL at this time would leave behind: the files, and nobody who closes them."""
    to.mkdir()
    for name in (FILE_NAME, LOG_NAME):
        if (live / name).exists():
            shutil.copy(live / name, to / name)


def damage(directory: Path, chance: random.Random) -> list[Damage]:
    """A few flipped bytes, a zeroed stretch, or a file that was cut off, in file or log."""
    file = directory / chance.choice([FILE_NAME, LOG_NAME])
    if not file.exists():  # its log was written back
        file = directory / FILE_NAME
    size = file.stat().st_size
    if not size:
        return []
    kind = chance.choice(["flip", "flip", "flip", "zero", "tear"])
    if kind == "tear":
        end = size - chance.randrange(1, min(size, 9000))
        os.truncate(file, end)
        return [Damage(file.name, end, size, is_cut_off=True)]
    if kind == "zero":
        start = chance.randrange(size)
        found = [Damage(file.name, start, min(size, start + chance.choice([512, 4096])))]
    else:
        starts = [chance.randrange(size) for _ in range(chance.choice([1, 1, 2, 5]))]
        found = [Damage(file.name, start, start + 1) for start in starts]
    with file.open("r+b") as opened:
        for part in found:
            opened.seek(part.start)
            old = opened.read(part.end - part.start)
            opened.seek(part.start)
            opened.write(
                bytes(len(old)) if kind == "zero" else bytes([old[0] ^ chance.randrange(1, 256)])
            )
    return found


def page_head(name: str, at: int) -> tuple[int, int]:
    """Where the page that this byte is in says where its rows are, with the frame's head in a
    log."""
    first, size = (HEADER_BYTES, FRAME_BYTES) if name == LOG_NAME else (0, PAGE_BYTES)
    start = at - (at - first) % size
    return start, start + size - PAGE_BYTES + ROW_POINTERS_BYTES


def readable(before: Path, damages: list[Damage]) -> set[int]:
    """Numbers of documents whose newest copy, and the row it is in, escaped the damage.

    An older copy, of a page that was written again since, is not read: SQLite knows the newest only
    (ADR 33). What was cut off is no copy. It looks for the documents' bytes in the files as they
    were, first the file and then its log from the beginning; of pages it knows where they begin,
    as the first bytes say where their rows are.
    """
    newest: dict[int, bool] = {}
    for name in (FILE_NAME, LOG_NAME):
        file = before / name
        content = file.read_bytes() if file.exists() else b""
        for found in re.finditer(rb'\{"seq":(\d+),"execution_id":[^}]*\}', content):
            start, end = found.start() - ROW_HEAD_BYTES, found.end() + 8
            hits = [
                part
                for part in damages
                if part.file == name
                and (part.covers(start, end) or part.covers(*page_head(name, found.start())))
            ]
            if not any(part.is_cut_off for part in hits):
                newest[int(found[1])] = not hits
    return {seq for seq, is_whole in newest.items() if is_whole}
