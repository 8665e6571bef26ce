"""The spool's tables, the connection, format version.

A file of another format is refused: a sidecar that does not know its checksums must neither
deliver nor discard what is in it. A new format changes the tables or the checksum of the
properties, so that it differs from a damaged format number.
"""

import functools
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from sidecar.spool import properties

FORMAT_VERSION = 3
FILE_NAME = "spool.sqlite3"
WAL_SUFFIX, SHM_SUFFIX = "-wal", "-shm"
PAGE_BYTES = 4096

_TABLES = """
CREATE TABLE properties (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- Writes in their order. `checksum` covers the rest of the row but for the two columns on merging.
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    execution_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    op TEXT NOT NULL,
    priority INTEGER NOT NULL,
    coalesce_key TEXT,
    checksum INTEGER NOT NULL,
    document BLOB NOT NULL,
    chain_id INTEGER
);
CREATE INDEX entries_by_execution ON entries (execution_id, seq);
CREATE INDEX entries_by_merge_head ON entries (chain_id) WHERE chain_id IS NOT NULL;
-- The members of the batch in flight, in their order. Empty when none is.
CREATE TABLE in_flight (position INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
-- How writes ended, newest last.
CREATE TABLE settled (
    position INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL UNIQUE,
    execution_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    op TEXT NOT NULL,
    state TEXT NOT NULL,
    problem BLOB,
    removed BLOB,
    checksum INTEGER
);
-- Writes whose place a later one took: `head` is the entry's `chain_id` that answers for them.
CREATE TABLE merged (
    seq INTEGER PRIMARY KEY,
    head INTEGER NOT NULL,
    checksum INTEGER
);
CREATE INDEX merged_by_head ON merged (head);
-- Executions this sidecar may write to.
CREATE TABLE bindings (
    execution_id INTEGER PRIMARY KEY,
    workflow_id INTEGER NOT NULL,
    computing_unit_id INTEGER,
    user_id INTEGER NOT NULL,
    warehouse TEXT,
    created_here INTEGER NOT NULL,
    ended_at_ms INTEGER
);
-- Tokens (by digest, never the token) that central has said yes to, per execution.
CREATE TABLE grants (
    token_digest BLOB NOT NULL,
    execution_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (token_digest, execution_id)
) WITHOUT ROWID;
"""


class UnknownFormat(OSError):
    """The spool's file has a format of another version of the sidecar."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"{FILE_NAME} has format {version}, this sidecar reads format {FORMAT_VERSION} only:"
            " start the version that wrote it, or empty the volume if nothing in it is wanted"
        )


def has_spool(directory: Path) -> bool:
    return (directory / FILE_NAME).exists()


def connect(path: Path) -> sqlite3.Connection:
    """A connection that can write, and has not yet. Makes an empty file if there is none."""
    connection = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
    # A flipped bit may make a text no UTF-8; that shall not stop the row from being read.
    connection.text_factory = _text
    return connection


def settle_in(connection: sqlite3.Connection) -> None:
    """How the connection writes, and the tables of a new spool if there are none.

    Not before it is known that SQLite sees all of the log: it may begin a new one.
    """
    is_new = is_blank(connection)
    if is_new:
        # Before the first page is written: the one lets a drained spool give its space back, the
        # other is what salvage counts on, which knows pages by their size.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # SQLite would say nothing of a sync that fails while it writes the log back by itself.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    # What was settled is overwritten: what salvage finds on a page is what still waits.
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA journal_size_limit = 8388608")  # a grown log shrinks to 8 MiB
    connection.execute("PRAGMA cache_size = -4096")  # 4 MiB: a full spool must not fill memory
    if is_new:
        create(connection)


def version_of(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def is_blank(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    return version_of(connection) == 0 and not tables


def create(connection: sqlite3.Connection) -> None:
    """The tables of a new spool, and its epoch with them."""
    connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {FORMAT_VERSION};")
    properties.write(
        connection,
        spool_id=secrets.token_hex(6),
        epoch=new_epoch(),
        batch=0,
        digest="",
        top_seq=0,
    )
    connection.execute("COMMIT")


def shape(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """Tables and indexes by their columns, in a fixed order."""
    return connection.execute(
        'SELECT m.name, c.name, c.type, c."notnull", c.pk FROM sqlite_schema AS m'
        " JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table'"
        " UNION ALL SELECT m.name, c.name, '', 0, c.seqno FROM sqlite_schema AS m"
        " JOIN pragma_index_info(m.name) AS c WHERE m.type = 'index'"
        " ORDER BY 1, 2"
    ).fetchall()


@functools.cache
def expected_shape() -> list[tuple[Any, ...]]:
    """What `shape` is of a spool of this format."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create(connection)
        return shape(connection)


def connect_read_only(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """A connection for reading beside the writer; it sees what has been committed.

    `immutable` is for a file that nobody writes, in a directory that cannot be written.
    """
    uri = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=1, isolation_level=None, check_same_thread=False
    )
    connection.text_factory = _text
    try:
        connection.execute("PRAGMA cache_size = -1024")
    except sqlite3.Error:
        connection.close()  # or it lived on, and had the file open, as long as the error does
        raise
    return connection


def new_epoch() -> str:
    return secrets.token_hex(16)


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")


def write_log_back(connection: sqlite3.Connection) -> None:
    """Writes as much of the log back as nobody is reading, so that it may begin anew."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def checkpoint_truncate(connection: sqlite3.Connection) -> None:
    """Writes the log back and empties it, unless someone is reading it: then some other time."""
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute("PRAGMA busy_timeout = 1000")
