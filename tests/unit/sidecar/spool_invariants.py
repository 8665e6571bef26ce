"""What holds of every spool file, whatever has happened to it: checked by reading it whole."""

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from sidecar.spool import batches, schema
from sidecar.spool.entry import coalesced_checksum, record_checksum
from sidecar.spool.inspect import InspectedSpool, inspected
from sidecar.spool.wal import WalFile, WalIndex


def findings_in(directory: Path) -> list[str]:
    """What is wrong with a spool, running or stopped; nothing if all is well."""
    checks = (
        _check_file,
        _check_meta,
        _check_entries,
        _check_batch,
        _check_numbers,
        _check_settled,
    )
    with inspected(directory) as spool:
        return [finding for check in checks for finding in check(spool)]


def _check_file(spool: InspectedSpool) -> Iterator[str]:
    for (found,) in spool.connection.execute("PRAGMA integrity_check(20)"):
        if found != "ok":
            yield str(found).replace("\n", " ")
    if schema.schema_signature(spool.connection) != schema.expected_signature():
        yield f"tables are not those of format {schema.FORMAT_VERSION}"
    path = spool.directory / schema.FILE_NAME
    if not spool.is_running:
        with closing(WalIndex(path)) as index:
            if WalFile(path).has_unreachable_commits(index.valid_frames):
                yield "the log is damaged: SQLite does not see all its commits"


def _check_meta(spool: InspectedSpool) -> Iterator[str]:
    if not schema.is_meta_intact(spool.meta):
        yield "meta: the checksum does not match"
    if not re.fullmatch(r"[0-9a-f]{32}", str(spool.meta.get("epoch"))):
        yield f"meta: {spool.meta.get('epoch')!r} is not an epoch"
    (newest,) = spool.connection.execute(
        "SELECT coalesce(max(generation), 0) FROM bindings"
    ).fetchone()
    if newest > spool.meta["max_generation"]:
        yield f"the next binding is not newer than {newest}"


def _check_entries(spool: InspectedSpool) -> Iterator[str]:
    for row in spool.waiting():
        name = f"entry {row[0]}"
        entry = batches.entry_of_row(row[:9])
        if entry is None:
            yield f"{name}: the checksum does not match; it ends as refused when it is cut"
            continue
        try:
            payload = msgspec.json.decode(entry.payload)
        except msgspec.DecodeError as error:
            yield f"{name}: the payload is not JSON: {error}"
            continue
        identity = (payload.get("seq"), payload.get("execution_id"), payload.get("op"))
        if identity != (entry.seq, entry.execution_id, entry.op):
            yield f"{name}: the payload is that of {identity}"


def _check_batch(spool: InspectedSpool) -> Iterator[str]:
    try:
        batches.in_flight(spool.connection)
    except batches.BatchDamaged:
        yield "the batch in flight is not what was cut: its members or its digest differ"
    places = [row[0] for row in spool.connection.execute("SELECT position FROM in_flight")]
    if sorted(places) != list(range(len(places))):
        yield "the batch in flight has gaps"
    if places and spool.meta["batch"] < 1:
        yield "there is a batch in flight, and none was ever numbered"


def _check_numbers(spool: InspectedSpool) -> Iterator[str]:
    for one, other in (("entries", "settled"), ("entries", "coalesced"), ("coalesced", "settled")):
        for (seq,) in spool.connection.execute(
            f"SELECT seq FROM {one} WHERE seq IN (SELECT seq FROM {other}) LIMIT 20"  # noqa: S608
        ):
            yield f"number {seq} is both in {one} and in {other}"
    (highest,) = spool.connection.execute("SELECT coalesce(max(seq), 0) FROM settled").fetchone()
    if highest > spool.meta["max_seq"]:
        yield f"number {highest} is settled, and the highest is said to be {spool.meta['max_seq']}"
    for seq, chain_id, stored in spool.connection.execute("SELECT * FROM coalesced"):
        if stored != coalesced_checksum(seq, chain_id):
            yield f"coalesced write {seq}: the checksum does not match"
    for (seq,) in spool.connection.execute(
        "SELECT seq FROM coalesced WHERE chain_id NOT IN"
        " (SELECT chain_id FROM entries WHERE chain_id IS NOT NULL) LIMIT 20"
    ):
        yield f"coalesced write {seq}: its replacement does not wait"


def _check_settled(spool: InspectedSpool) -> Iterator[str]:
    rows = spool.connection.execute(
        "SELECT seq, execution_id, user_id, op, state, problem, removed, checksum FROM settled"
    )
    count = 0
    for *record, stored in rows:
        count += 1
        if stored != record_checksum(*record):
            yield f"settled write {record[0]}: the checksum does not match"
    if count > batches.HISTORY_SIZE:
        yield f"{count} settled writes are kept, of {batches.HISTORY_SIZE}"
