"""What the file says of itself: its name, its epoch, the last batch, the highest number given.

The values are sealed by a checksum over all of them: an epoch or a batch number with a flipped bit
would be believed by nobody but us.
"""

import sqlite3
import zlib
from typing import Any

NAMES = frozenset({"spool_id", "epoch", "batch", "digest", "top_seq"})
BOOT = "boot"
"""Absent until the computing unit has told one."""
SEAL = "seal"


def read(connection: sqlite3.Connection) -> dict[str, Any]:
    return dict(connection.execute("SELECT name, value FROM properties"))


def write(connection: sqlite3.Connection, **values: Any) -> None:
    """Changes some of them, and the seal with them."""
    known = read(connection) | values
    known[SEAL] = seal_of(known)
    values[SEAL] = known[SEAL]
    connection.executemany("INSERT OR REPLACE INTO properties VALUES (?, ?)", values.items())


def raise_top(connection: sqlite3.Connection, seq: int) -> None:
    """Before a number may leave every table: it must never be given again."""
    if seq > read(connection)["top_seq"]:
        write(connection, top_seq=seq)


def is_sealed(known: dict[str, Any]) -> bool:
    return known.keys() >= NAMES and known.get(SEAL) == seal_of(known)


def seal_of(known: dict[str, Any]) -> int:
    text = "\0".join(f"{name}={known.get(name)!r}" for name in sorted(NAMES | {BOOT}))
    return zlib.crc32(text.encode(errors="backslashreplace"))
