"""The current boot of the computing unit, as a property of the spool's file."""

import sqlite3
from dataclasses import dataclass

from sidecar.spool import properties


@dataclass(frozen=True, slots=True)
class Boot:
    """One start of a computing unit's master process, by the name it gave itself."""

    computing_unit_id: int
    boot_id: str


def load(connection: sqlite3.Connection) -> Boot | None:
    value = properties.read(connection).get(properties.BOOT)
    if value is None:
        return None
    unit_id, _, boot_id = value.partition(" ")
    return Boot(int(unit_id), boot_id)


def record(connection: sqlite3.Connection, boot: Boot) -> None:
    properties.write(connection, **{properties.BOOT: f"{boot.computing_unit_id} {boot.boot_id}"})
