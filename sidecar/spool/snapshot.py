"""What memory holds of the file, read in one go when it is opened."""

import sqlite3
from dataclasses import dataclass

from sidecar.spool import boots, ledger, permits, properties


@dataclass(frozen=True, slots=True)
class Snapshot:
    spool_id: str
    next_seq: int
    has_batch: bool
    summaries: list[tuple[int, int, list[int], int]]
    merged_count: int
    bindings: list[permits.Binding]
    grants: list[permits.Grant]
    boot: boots.Boot | None

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> "Snapshot":
        return cls(
            spool_id=properties.read(connection)["spool_id"],
            next_seq=ledger.next_seq(connection),
            has_batch=ledger.has_batch(connection),
            summaries=ledger.summaries(connection),
            merged_count=ledger.merged_count(connection),
            bindings=permits.bindings(connection),
            grants=permits.grants(connection),
            boot=boots.load(connection),
        )
