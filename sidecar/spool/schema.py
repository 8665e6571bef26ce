"""The spool's file: tables, settings of the connection, format version.

Format history. 1: the first. A newer sidecar upgrades an older file in place, in one
transaction; an older sidecar that meets a newer file sets it aside as it would a damaged one.
"""

import secrets
import sqlite3
from pathlib import Path

FORMAT_VERSION = 1
FILE_NAME = "spool.sqlite3"

_TABLES = """
CREATE TABLE properties (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
-- Writes in their order. `checksum` covers seq, execution_id and document.
CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    execution_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    op TEXT NOT NULL,
    urgency INTEGER NOT NULL,
    merge_key TEXT,
    checksum INTEGER NOT NULL,
    document BLOB NOT NULL
);
CREATE INDEX entries_by_execution ON entries (execution_id, seq);
-- The members of the batch in flight, in their order. Empty when none is.
CREATE TABLE in_flight (position INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
-- How writes ended, newest last. A merged write names the one that replaced it.
CREATE TABLE settled (
    position INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL UNIQUE,
    execution_id INTEGER NOT NULL,
    user_id INTEGER NOT NULL,
    op TEXT NOT NULL,
    state TEXT NOT NULL,
    problem BLOB,
    removed BLOB
);
CREATE TABLE merged (seq INTEGER PRIMARY KEY, into_seq INTEGER NOT NULL);
CREATE INDEX merged_by_replacement ON merged (into_seq);
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


def has_spool(directory: Path) -> bool:
    return (directory / FILE_NAME).exists()


def connect(path: Path) -> sqlite3.Connection:
    """The connection that writes. Makes the file, and its epoch with it, if there is none."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    # Before the first page is written; it lets a drained spool give its space back.
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_size_limit = 8388608")  # a grown log shrinks to 8 MiB
    connection.execute("PRAGMA cache_size = -4096")  # 4 MiB: a full spool must not fill memory
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        create(connection)
    return connection


def create(connection: sqlite3.Connection) -> None:
    connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {FORMAT_VERSION};")
    properties = {
        "spool_id": secrets.token_hex(6),
        "epoch": new_epoch(),
        "batch": 0,
        "digest": "",
        "top_seq": 0,
    }
    connection.executemany("INSERT INTO properties VALUES (?, ?)", properties.items())
    connection.execute("COMMIT")


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection for reading beside the writer; it sees what has been committed."""
    uri = f"{path.resolve().as_uri()}?mode=ro"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def new_epoch() -> str:
    return secrets.token_hex(16)
