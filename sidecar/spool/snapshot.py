"""What memory holds of the file, read in one go when it is opened."""

import sqlite3
from dataclasses import dataclass

from sidecar.spool import bindings, ledger, properties
from sidecar.spool.bindings import Binding, Boot, Grant


@dataclass(frozen=True, slots=True)
class Snapshot:
    spool_id: str
    next_seq: int
    has_batch: bool
    summaries: list[tuple[int, int, list[int], int]]
    coalesced_count: int
    bindings: list[Binding]
    grants: list[Grant]
    boot: Boot | None

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> "Snapshot":
        return cls(
            spool_id=properties.read(connection)["spool_id"],
            next_seq=ledger.next_seq(connection),
            has_batch=ledger.has_batch(connection),
            summaries=ledger.summaries(connection),
            coalesced_count=ledger.coalesced_count(connection),
            bindings=bindings.load_bindings(connection),
            grants=bindings.load_grants(connection),
            boot=bindings.load_boot(connection),
        )
