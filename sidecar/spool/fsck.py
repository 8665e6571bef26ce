"""Whether a spool is what it should be: all that the sidecar counts on, said in sentences."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from sidecar.spool import ledger, properties, schema
from sidecar.spool.entry import merged_checksum, record_checksum
from sidecar.spool.inspection import Inspected
from sidecar.spool.log import Log
from sidecar.spool.quarantine import FOLDER, ROWS_FILE
from sidecar.spool.settling import HISTORY_SIZE


def faults(spool: Inspected) -> Iterator[str]:
    """What is wrong, one sentence each; nothing if all is well."""
    try:
        for check in (_structure, _properties, _entries, _batch, _numbers, _ended):
            yield from check(spool)
    except sqlite3.Error as error:
        yield f"the file cannot be read further: {error}"


def set_aside(directory: Path) -> Iterator[str]:
    """What earlier damage has left under `quarantine/`."""
    quarantine = directory / FOLDER
    if not quarantine.is_dir():
        return
    for folder in sorted(path for path in quarantine.iterdir() if path.is_dir()):
        size = sum(file.stat().st_size for file in folder.iterdir())
        yield f"{FOLDER}/{folder.name}: {size} bytes"
    entries = quarantine / ROWS_FILE
    if entries.exists():
        count = len(entries.read_bytes().splitlines())
        yield f"{FOLDER}/{entries.name}: {count} damaged entries as they were found"


def _structure(spool: Inspected) -> Iterator[str]:
    for (found,) in spool.connection.execute("PRAGMA integrity_check(20)"):
        if found != "ok":
            yield str(found).replace("\n", " ")
    if schema.shape(spool.connection) != schema.expected_shape():
        yield f"tables are not those of format {schema.FORMAT_VERSION}"
    path = spool.directory / schema.FILE_NAME
    if not spool.is_live and Log(path).has_unreachable_commits(spool.log_index.frame_count):
        yield "the log is damaged: SQLite does not see all of its commits (a start puts them back)"


def _properties(spool: Inspected) -> Iterator[str]:
    known = spool.properties
    if not properties.is_sealed(known):
        yield "the properties are not what was stored"
    if not re.fullmatch(r"[0-9a-f]{32}", str(known.get("epoch"))):
        yield f"epoch {known.get('epoch')!r} is none"


def _entries(spool: Inspected) -> Iterator[str]:
    for row in spool.waiting():
        name = f"entry {row[0]}"
        entry = ledger.entry_of_row(row[:9])
        if entry is None:
            yield f"{name}: its checksum does not fit; it ends as refused when its turn comes"
            continue
        try:
            document = msgspec.json.decode(entry.document)
        except msgspec.DecodeError as error:
            yield f"{name}: its document is no JSON: {error}"
            continue
        told = (document.get("seq"), document.get("execution_id"), document.get("op"))
        if told != (entry.seq, entry.execution_id, entry.op):
            yield f"{name}: its document speaks of {told}"


def _batch(spool: Inspected) -> Iterator[str]:
    cut = ledger.in_flight(spool.connection)
    if cut is None:
        yield "the batch in flight is not what was cut: its members or its digest differ"
    places = [row[0] for row in spool.connection.execute("SELECT position FROM in_flight")]
    if sorted(places) != list(range(len(places))):
        yield "the batch in flight has gaps"
    if places and spool.properties["batch"] < 1:
        yield "there is a batch in flight and none was ever numbered"


def _numbers(spool: Inspected) -> Iterator[str]:
    for one, other in (("entries", "settled"), ("entries", "merged"), ("merged", "settled")):
        for (seq,) in spool.connection.execute(
            f"SELECT seq FROM {one} WHERE seq IN (SELECT seq FROM {other}) LIMIT 20"  # noqa: S608
        ):
            yield f"number {seq} is both in {one} and in {other}"
    (highest,) = spool.connection.execute("SELECT coalesce(max(seq), 0) FROM settled").fetchone()
    if highest > spool.properties["top_seq"]:
        yield f"number {highest} has ended, and {spool.properties['top_seq']} is said to be the top"
    for seq, head, stored in spool.connection.execute("SELECT seq, head, checksum FROM merged"):
        if stored != merged_checksum(seq, head):
            yield f"merged write {seq}: its checksum does not fit"
    for (seq,) in spool.connection.execute(
        "SELECT seq FROM merged WHERE head NOT IN"
        " (SELECT chain_id FROM entries WHERE chain_id IS NOT NULL) LIMIT 20"
    ):
        yield f"merged write {seq}: nothing that waits answers for it"


def _ended(spool: Inspected) -> Iterator[str]:
    rows = spool.connection.execute(
        "SELECT seq, execution_id, user_id, op, state, problem, removed, checksum FROM settled"
    )
    count = 0
    for *record, stored in rows:
        count += 1
        if stored != record_checksum(*record):
            yield f"ended write {record[0]}: its checksum does not fit"
    if count > HISTORY_SIZE:
        yield f"{count} ended writes are kept, of {HISTORY_SIZE}"
