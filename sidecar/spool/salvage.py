"""Opening a spool that may be damaged: keep what can be read, set the rest aside, count it.

A file that SQLite cannot walk is moved to `quarantine/<time>/`, and whatever can still be
read of it is copied into a new file, entry by entry, each checked by its checksum. The new
file has a new epoch: which batch central had applied can no longer be told for sure, so what
is kept is delivered at least once.
"""

import json
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.kit.logs import fields
from sidecar.spool import boots, ledger, schema
from sidecar.spool.entry import checksum

logger = logging.getLogger(__name__)

SEQ_LEAP = 1_000_000
"""Numbers skipped in a salvaged file, so that none that was lost is ever given again."""
_UNREADABLE_SPAN = 1 << 20
_PAGE = 256


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What opening found. `lost_count` counts entries known to be unreadable."""

    salvaged: bool = False
    kept_count: int = 0
    lost_count: int = 0


def prepare(directory: Path, *, distrust: bool = False) -> Salvaged:
    """Makes sure that the directory holds a spool that can be opened, or none.

    `distrust` salvages even a file that looks whole: its damage was met at work.
    """
    path = directory / schema.FILE_NAME
    if not path.exists() or (not distrust and _is_whole(path)):
        return Salvaged()
    aside = _move_aside(directory)
    rescued = directory / "rescued.sqlite3"
    rescued.unlink(missing_ok=True)
    with closing(schema.connect(rescued)) as target:
        result = _copy(aside / schema.FILE_NAME, target)
        target.execute("PRAGMA journal_mode = DELETE")  # one whole file, ready to be renamed
    rescued.replace(path)
    logger.error(
        "damaged spool set aside",
        extra=fields(
            quarantine=str(aside), kept_count=result.kept_count, lost_count=result.lost_count
        ),
    )
    return result


def keep_rows(directory: Path, rows: list[tuple[Any, ...]]) -> None:
    """Appends damaged entries, as they were found, to `quarantine/entries.jsonl`."""
    quarantine = directory / "quarantine"
    quarantine.mkdir(exist_ok=True)
    with (quarantine / "entries.jsonl").open("a") as file:
        for row in rows:
            file.write(json.dumps([_readable(value) for value in row]) + "\n")
    logger.error("damaged entries set aside", extra=fields(seqs=[row[0] for row in rows]))


def _readable(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _is_whole(path: Path) -> bool:
    """Whether every table can be walked. Documents are checked by checksum when they are cut."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                return not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            known = ledger.properties(connection)
            ledger.summaries(connection)
            ledger.next_seq(connection)
            connection.execute("SELECT count(*) FROM in_flight JOIN entries USING (seq)").fetchone()
            return version == schema.FORMAT_VERSION and known.keys() >= {
                "spool_id",
                "epoch",
                "batch",
                "digest",
                "top_seq",
            }
    except sqlite3.DatabaseError as error:
        logger.warning("spool cannot be read", extra=fields(error=str(error)))
        return False


def _move_aside(directory: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    number = 0
    while (aside := directory / "quarantine" / f"{stamp}-{number}").exists():
        number += 1
    aside.mkdir(parents=True)
    for suffix in ("", "-wal", "-shm"):
        file = directory / (schema.FILE_NAME + suffix)
        with suppress(FileNotFoundError):
            shutil.move(file, aside / file.name)
    return aside


def _copy(source_path: Path, target: sqlite3.Connection) -> Salvaged:
    kept = lost = 0
    highest = 0
    with closing(sqlite3.connect(source_path, isolation_level=None)) as source:
        with suppress(sqlite3.DatabaseError):
            spool_id = ledger.properties(source)["spool_id"]
            target.execute("UPDATE properties SET value = ? WHERE name = 'spool_id'", (spool_id,))
        with suppress(sqlite3.DatabaseError, ValueError):
            if (boot := boots.load(source)) is not None:
                boots.record(target, boot)
        columns = "seq, execution_id, user_id, op, urgency, merge_key, checksum, document"
        target.execute("BEGIN")
        for row in _readable_rows(source, "entries", "seq", columns):
            highest = max(highest, row[0])
            try:
                if row[6] != checksum(row[0], row[1], row[7]):
                    raise ValueError(row[0])
                target.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
                kept += 1
            except (ValueError, TypeError, sqlite3.Error):
                lost += 1
        for table, key in (
            ("settled", "position"),
            ("merged", "seq"),
            ("bindings", "execution_id"),
        ):
            for row in _readable_rows(source, table, key, "*"):
                marks = ", ".join("?" * len(row))
                with suppress(sqlite3.Error):
                    target.execute(f"INSERT INTO {table} VALUES ({marks})", row)  # noqa: S608
        with suppress(sqlite3.DatabaseError):
            for row in source.execute("SELECT * FROM grants"):
                target.execute("INSERT INTO grants VALUES (?, ?, ?, ?)", row)
        highest = max(highest, ledger.next_seq(target))
        target.execute(
            "UPDATE properties SET value = ? WHERE name = 'top_seq'", (highest + SEQ_LEAP,)
        )
        target.execute("COMMIT")
        # Where nothing could be walked at all, how many were lost cannot be known: at least one.
        unreadable = kept == lost == 0 and not _can_count(source)
    return Salvaged(salvaged=True, kept_count=kept, lost_count=lost or int(unreadable))


def _can_count(source: sqlite3.Connection) -> bool:
    try:
        source.execute("SELECT count(*) FROM entries NOT INDEXED").fetchone()
    except sqlite3.DatabaseError:
        return False
    return True


def _readable_rows(
    source: sqlite3.Connection, table: str, key: str, columns: str
) -> Iterator[tuple[Any, ...]]:
    """Walks a table by its key and steps over what cannot be read."""
    query = f"SELECT {key}, {columns} FROM {table} WHERE {key} > ? ORDER BY {key} LIMIT ?"  # noqa: S608
    after, page, step = -1, _PAGE, 1
    while step < _UNREADABLE_SPAN:
        try:
            rows = source.execute(query, (after, page)).fetchall()
        except sqlite3.DatabaseError:
            if page > 1:
                page = 1
                continue
            after += step
            step *= 2
            continue
        if not rows:
            return
        for row in rows:
            yield row[1:]
        after, page, step = rows[-1][0], _PAGE if page > 1 or step == 1 else 1, 1
