"""The spool's tables, its connections, and the `meta` table.

A file of another format is refused: a sidecar that does not know its checksums must neither
deliver nor discard what is in it. A new format changes the tables or the checksum of `meta`, so
that it differs from a damaged format number.
"""

import functools
import secrets
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

FORMAT_VERSION = 7
FILE_NAME = "spool.sqlite3"
WAL_SUFFIX, SHM_SUFFIX = "-wal", "-shm"
PAGE_BYTES = 4096
VACUUM_STEP_PAGES = 2_048
"""8 MiB at a time, a few milliseconds of the writer's thread."""

_TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- Unsettled writes in order. `checksum` covers all columns but those for coalescing.
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    execution_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    op TEXT NOT NULL,
    priority INTEGER NOT NULL,
    coalesce_key TEXT,
    checksum INTEGER NOT NULL,
    payload BLOB NOT NULL,
    chain_id INTEGER
);
CREATE INDEX entries_by_execution ON entries (execution_id, seq);
CREATE INDEX entries_by_chain ON entries (chain_id) WHERE chain_id IS NOT NULL;
-- The members of the batch in flight, in order. Empty when there is none. `generation` is that of
-- the execution's binding when the batch was cut, 0 without one. `withdrawal` is not 0 once the
-- batch is to be withdrawn (`batches.Withdrawal`).
CREATE TABLE in_flight (
    position INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    withdrawal INTEGER NOT NULL DEFAULT 0
);
-- Settled writes, newest last.
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
-- Replaced writes. They share the outcome of the entry with the same `chain_id`, which names the
-- first write of the chain: a replacement costs the same however long the chain is.
CREATE TABLE coalesced (
    seq INTEGER PRIMARY KEY,
    chain_id INTEGER NOT NULL,
    checksum INTEGER
);
CREATE INDEX coalesced_by_chain ON coalesced (chain_id);
-- Executions that this sidecar may write to. `generation` grows with each binding that is stored.
CREATE TABLE bindings (
    execution_id INTEGER PRIMARY KEY,
    workflow_id INTEGER NOT NULL,
    computing_unit_id INTEGER,
    user_id INTEGER NOT NULL,
    warehouse TEXT,
    created_here INTEGER NOT NULL,
    ended_at_ms INTEGER,
    generation INTEGER NOT NULL
);
-- Tokens (their digests, never the tokens) that central has authorized, per execution.
CREATE TABLE grants (
    token_digest BLOB NOT NULL,
    execution_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (token_digest, execution_id)
) WITHOUT ROWID;
"""

# Their columns, as they are read and written.
ENTRY_COLUMNS = (
    "seq, execution_id, user_id, op, priority, coalesce_key, payload, checksum, chain_id"
)
SETTLED_COLUMNS = "seq, execution_id, user_id, op, state, problem, removed, checksum"
BINDING_COLUMNS = (
    "execution_id, workflow_id, computing_unit_id, user_id, warehouse, created_here, ended_at_ms,"
    " generation"
)
GRANT_COLUMNS = "token_digest, execution_id, user_id, expires_at"


class UnknownFormat(OSError):
    """The spool's file has the format of another version of the sidecar."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"{FILE_NAME} has format {version}, this sidecar reads format {FORMAT_VERSION} only:"
            " start the version that wrote it, or empty the volume if nothing in it is wanted"
        )


def has_spool(directory: Path) -> bool:
    return (directory / FILE_NAME).exists()


# Connections


def connect(path: Path) -> sqlite3.Connection:
    """A connection that can write, and has not yet. Creates an empty file if there is none."""
    connection = sqlite3.connect(path, timeout=1, isolation_level=None, check_same_thread=False)
    connection.text_factory = _decode_text
    return connection


def configure(connection: sqlite3.Connection, *, bindings_lost_at_ms: int | None = None) -> None:
    """Sets how the connection writes, and creates the tables of a new spool.

    `bindings_lost_at_ms` is for a new spool in place of one that was lost. Only after SQLite is
    known to see the whole log: this may start a new one.
    """
    is_new = is_empty(connection)
    if is_new:
        # Both have to be set before the first page is written. A drained spool can return its
        # space; recovery computes the offsets of frames from the page size.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # SQLite's own checkpoints ignore a sync that fails (ADR 20); the writer checkpoints instead.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    # Settled rows are overwritten, so a damaged page never shows one as waiting.
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA journal_size_limit = 8388608")  # a grown log shrinks to 8 MiB
    connection.execute("PRAGMA cache_size = -4096")  # 4 MiB: a full spool must not fill memory
    if is_new:
        create(connection, bindings_lost_at_ms)


def connect_read_only(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """A connection for reading beside the writer; it sees what has been committed.

    `immutable` is for a file without a writer, in a directory that may be read-only.
    """
    uri = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=1, isolation_level=None, check_same_thread=False
    )
    connection.text_factory = _decode_text
    try:
        connection.execute("PRAGMA cache_size = -1024")
    except sqlite3.Error:
        connection.close()  # else it keeps the file open as long as the error's traceback lives
        raise
    return connection


def _decode_text(raw: bytes) -> str:
    """A flipped bit may make a text invalid UTF-8; the row must stay readable."""
    return raw.decode(errors="backslashreplace")


def checkpoint(connection: sqlite3.Connection) -> None:
    """Writes as much of the log back as no reader needs, so that it can start over."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def checkpoint_truncate(connection: sqlite3.Connection) -> None:
    """Writes the log back and empties it; does nothing while a reader needs it."""
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute("PRAGMA busy_timeout = 1000")


def vacuum_step(connection: sqlite3.Connection) -> bool:
    """Returns a bounded number of free pages to the volume. False if none is left."""
    connection.execute(f"PRAGMA incremental_vacuum({VACUUM_STEP_PAGES})").fetchall()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return bool(free)


def sqlite_code(error: BaseException) -> int:
    """SQLite's primary result code; 0 where it gave none."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def is_corruption(error: BaseException) -> bool:
    return sqlite_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


# Tables


def version_of(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def is_empty(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    return version_of(connection) == 0 and not tables


def create(connection: sqlite3.Connection, bindings_lost_at_ms: int | None = None) -> None:
    """Creates the tables of a new spool, and with them its id and its first epoch."""
    connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {FORMAT_VERSION};")
    write_meta(
        connection,
        spool_id=secrets.token_hex(6),
        epoch=new_epoch(),
        batch=0,
        digest="",
        max_seq=0,
        max_generation=0,
        bindings_lost_at_ms=bindings_lost_at_ms,
    )
    connection.execute("COMMIT")


def schema_signature(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
    """Tables and indexes by their columns, in a fixed order."""
    return connection.execute(
        'SELECT m.name, c.name, c.type, c."notnull", c.pk FROM sqlite_schema AS m'
        " JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table'"
        " UNION ALL SELECT m.name, c.name, '', 0, c.seqno FROM sqlite_schema AS m"
        " JOIN pragma_index_info(m.name) AS c WHERE m.type = 'index'"
        " ORDER BY 1, 2"
    ).fetchall()


@functools.cache
def expected_signature() -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        create(connection)
        return schema_signature(connection)


# Meta: what the file says of itself. One checksum covers all values, because a flipped bit in an
# epoch or a batch number would otherwise go unnoticed until central refuses the batch.

META_NAMES = frozenset({"spool_id", "epoch", "batch", "digest", "max_seq", "max_generation"})
BOOT = "boot"
"""Absent until the computing unit has registered a boot."""
BINDINGS_LOST = "bindings_lost_at_ms"
"""Since when bindings may be missing; absent or null while the spool has all of them."""
CHECKSUM = "checksum"


def new_epoch() -> str:
    return secrets.token_hex(16)


def read_meta(connection: sqlite3.Connection) -> dict[str, Any]:
    return dict(connection.execute("SELECT name, value FROM meta"))


def write_meta(connection: sqlite3.Connection, **values: Any) -> None:
    """Changes some values, and the checksum with them."""
    meta = read_meta(connection) | values
    values[CHECKSUM] = _meta_checksum(meta)
    connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())


def bump_max_seq(connection: sqlite3.Connection, seq: int) -> None:
    """Called before a number may leave every table: it must never be assigned again."""
    if seq > read_meta(connection)["max_seq"]:
        write_meta(connection, max_seq=seq)


def is_meta_intact(meta: dict[str, Any]) -> bool:
    return meta.keys() >= META_NAMES and meta.get(CHECKSUM) == _meta_checksum(meta)


def _meta_checksum(meta: dict[str, Any]) -> int:
    names = sorted(META_NAMES | {BOOT, BINDINGS_LOST})
    text = "\0".join(f"{name}={meta.get(name)!r}" for name in names)
    return zlib.crc32(text.encode(errors="backslashreplace"))
