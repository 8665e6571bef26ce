"""A spool for tests, reopened on one directory, and operations on it."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sidecar.spool.batches import BATCH_MAX_BYTES
from sidecar.spool.capacity import SpoolLimits
from sidecar.spool.entry import (
    Batch,
    NewEntry,
    Outcome,
    Priority,
    WriteRecord,
    WriteState,
)
from sidecar.spool.schema import FILE_NAME
from sidecar.spool.spool import Spool

USER, OTHER_USER = 1, 2
EID, OTHER_EID = 7, 8


class Spools:
    """One directory and the spool open on it; `reopen` closes it and opens the next."""

    def __init__(self, directory: Path, limits: SpoolLimits) -> None:
        self.directory = directory
        self.limits = limits
        self.now_s = 1000.0
        self._open: Spool | None = None

    async def open(self) -> Spool:
        await self.close()
        spool = Spool(
            self.directory,
            self.limits,
            wall_clock=lambda: self.now_s,
            monotonic=lambda: self.now_s,
        )
        await spool.open()
        self._open = spool
        return spool

    async def close(self) -> None:
        if self._open is not None:
            await self._open.close()
            self._open = None

    def edit(self, sql: str, *values: object) -> None:
        """Changes the file of a closed spool behind its back."""
        assert self._open is None
        with closing(sqlite3.connect(self.directory / FILE_NAME, isolation_level=None)) as file:
            file.execute(sql, values)

    def flip(self, seq: int) -> None:
        """Changes one byte of a stored document."""
        self.edit(
            "UPDATE entries SET payload = CAST(substr(payload, 1, length(payload) - 3) || 'X'"
            " || substr(payload, -2) AS BLOB) WHERE seq = ?",
            seq,
        )


def update(
    execution_id: int = EID,
    user_id: int = USER,
    priority: Priority = Priority.NORMAL,
    **members: Any,
) -> NewEntry:
    return NewEntry(execution_id, user_id, "update_execution", members, priority)


def size_only(size: int, user_id: int = USER, execution_id: int = EID) -> NewEntry:
    members = {"operator_id": "op", "bytes": size}
    return NewEntry(
        execution_id, user_id, "set_console_bytes", members, Priority.NORMAL, "console op"
    )


async def cut(spool: Spool, max_bytes: int = BATCH_MAX_BYTES) -> Batch:
    batch = await spool.cut(flush=True, max_bytes=max_bytes)
    assert batch is not None
    return batch


async def settle(spool: Spool, batch: Batch, outcome: str = "applied") -> list[WriteRecord]:
    notified: list[Sequence[WriteRecord]] = []
    outcomes = [Outcome(entry.seq, outcome) for entry in batch.entries]
    records = await spool.settle(batch, outcomes, notified.append)
    assert notified == [records]
    return records


def numbers(batch: Batch) -> list[int]:
    return [entry.seq for entry in batch.entries]


async def state_of(spool: Spool, seq: int) -> WriteState | None:
    record = await spool.find(seq)
    return record.state if record is not None else None


async def epoch_of(spool: Spool) -> str:
    seq = await spool.append(update(execution_id=99, name="probe"))
    batch = await cut(spool)
    assert seq in numbers(batch)
    await settle(spool, batch)
    return batch.epoch
