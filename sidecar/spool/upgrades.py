"""From each older format of the file to the next. All steps run in one transaction, at open."""

import sqlite3
import zlib
from collections.abc import Callable, Mapping

from sidecar.spool import properties, schema
from sidecar.spool.entry import checksum, merged_checksum, record_checksum


def upgrade(connection: sqlite3.Connection) -> int | None:
    """Brings an older file to the current format. Answers what it was; None if nothing was to do.

    A file of a format that no sidecar of this line has written is left as it is.
    """
    version = schema.version_of(connection)
    if version not in STEPS:
        return None
    connection.execute("BEGIN IMMEDIATE")
    try:
        for older in range(version, schema.FORMAT_VERSION):
            STEPS[older](connection)
        connection.execute(f"PRAGMA user_version = {schema.FORMAT_VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return version


def _from_1(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE entries ADD COLUMN chain_id INTEGER")
    # A chain's head is any number that only this chain has; its replacement's own will do.
    connection.execute(
        "UPDATE entries SET chain_id = seq WHERE seq IN (SELECT into_seq FROM merged)"
    )
    connection.execute("ALTER TABLE merged RENAME COLUMN into_seq TO head")
    connection.execute("ALTER TABLE merged ADD COLUMN checksum INTEGER")
    connection.create_function("merged_checksum", 2, merged_checksum, deterministic=True)
    connection.execute("UPDATE merged SET checksum = merged_checksum(seq, head)")
    connection.execute("DROP INDEX merged_by_replacement")
    connection.execute("CREATE INDEX merged_by_head ON merged (head)")
    connection.execute(
        "CREATE INDEX entries_by_merge_head ON entries (chain_id) WHERE chain_id IS NOT NULL"
    )
    connection.create_function("checksum_1", 3, checksum_1, deterministic=True)
    connection.create_function("checksum_2", 6, _checksum_2, deterministic=True)
    # An entry that was damaged before stays what it is, and is set aside when its turn comes.
    connection.execute(
        "UPDATE entries SET checksum ="
        " checksum_2(seq, execution_id, user_id, op, priority, document)"
        " WHERE checksum = checksum_1(seq, execution_id, document)"
    )
    connection.execute("ALTER TABLE settled ADD COLUMN checksum INTEGER")
    connection.create_function("record_checksum", 7, record_checksum, deterministic=True)
    connection.execute(
        "UPDATE settled SET checksum ="
        " record_checksum(seq, execution_id, user_id, op, state, problem, removed)"
    )
    properties.write(connection)


def checksum_1(seq: int, execution_id: int, document: bytes) -> int | None:
    """An entry's checksum as format 1 had it; None for what cannot have one."""
    try:
        return zlib.crc32(document, zlib.crc32(b"%d %d" % (seq, execution_id)))
    except TypeError:
        return None


def _checksum_2(
    seq: int, execution_id: int, user_id: int, op: str, priority: int, document: bytes
) -> int:
    try:
        return checksum(seq, execution_id, user_id, op, priority, document)
    except (TypeError, AttributeError):
        return -1  # no checksum is negative


STEPS: Mapping[int, Callable[[sqlite3.Connection], None]] = {1: _from_1}
