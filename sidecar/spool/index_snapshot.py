"""The part of the file that memory holds too, read at once when the file is opened."""

import sqlite3
from dataclasses import dataclass

from sidecar.problems import WriteSkipped
from sidecar.spool import bindings, schema
from sidecar.spool.bindings import Binding, Boot, Grant
from sidecar.spool.entry import ENTRY_OVERHEAD_BYTES, Priority


@dataclass(frozen=True, slots=True)
class IndexSnapshot:
    spool_id: str
    next_seq: int
    has_batch: bool
    queues: list[tuple[int, int, list[int], int]]
    """Per execution: its id, first number, entries by priority, bytes on disk."""
    coalesced_count: int
    skipped_count: int
    """Kept writes that an operator has skipped."""
    bindings: list[Binding]
    bindings_lost_at_ms: int | None
    grants: list[Grant]
    boot: Boot | None

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> "IndexSnapshot":
        counts = ", ".join(f"sum(priority = {int(priority)})" for priority in Priority)
        queues = connection.execute(
            f"SELECT execution_id, min(seq), {counts}, sum(length(payload) + ?) FROM entries"  # noqa: S608
            " GROUP BY execution_id",
            (ENTRY_OVERHEAD_BYTES,),
        )
        max_seq, coalesced_count, has_batch, skipped_count = connection.execute(
            # `max_seq` remembers numbers that are in no table any more.
            "SELECT max((SELECT coalesce(max(seq), 0) FROM entries),"
            " (SELECT coalesce(max(seq), 0) FROM settled),"
            " (SELECT coalesce(max(seq), 0) FROM coalesced),"
            " (SELECT value FROM meta WHERE name = 'max_seq')),"
            " (SELECT count(*) FROM coalesced), EXISTS (SELECT 1 FROM in_flight),"
            " (SELECT count(*) FROM settled WHERE instr(problem, ?))",
            (f'"type":"{WriteSkipped.slug}"'.encode(),),
        ).fetchone()
        meta = schema.read_meta(connection)
        return cls(
            spool_id=meta["spool_id"],
            next_seq=max_seq + 1,
            has_batch=bool(has_batch),
            queues=[(row[0], row[1], list(row[2:-1]), row[-1]) for row in queues],
            coalesced_count=coalesced_count,
            skipped_count=skipped_count,
            bindings=bindings.load_bindings(connection),
            bindings_lost_at_ms=meta.get(schema.BINDINGS_LOST),
            grants=bindings.load_grants(connection),
            boot=bindings.load_boot(connection),
        )
