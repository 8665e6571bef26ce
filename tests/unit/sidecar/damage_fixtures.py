"""Damage to a spool's files, and an oracle for what is still readable."""

import os
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from sidecar.spool.schema import FILE_NAME

LOG_NAME = f"{FILE_NAME}-wal"
ROW_HEAD_BYTES = 64
"""Of an entry's row, before its document: more than any of the tests' rows has."""


@dataclass(frozen=True)
class Damage:
    """Bytes of one file that are no longer what they were."""

    file: str
    start: int
    end: int

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
        return [Damage(file.name, end, size)]
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


def readable(before: Path, damages: list[Damage]) -> set[int]:
    """Numbers of documents of which one whole copy, and the row it is in, escaped the damage.

    Knows nothing of pages: it looks for the documents' bytes in the files as they were.
    """
    seqs = set()
    for name in (FILE_NAME, LOG_NAME):
        file = before / name
        content = file.read_bytes() if file.exists() else b""
        for found in re.finditer(rb'\{"seq":(\d+),"execution_id":[^}]*\}', content):
            start, end = found.start() - ROW_HEAD_BYTES, found.end() + 8
            if not any(part.file == name and part.covers(start, end) for part in damages):
                seqs.add(int(found[1]))
    return seqs
