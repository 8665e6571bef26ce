"""Waiting or just committed writes, laid over what is remembered of central's answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sidecar import operations, wire
from sidecar.cache.registry import Registry
from sidecar.spool.entry import Entry

_ROW_OVERHEAD_BYTES = 1500
"""What a decoded row costs beside its texts: the struct, its strings, key, mark and ETag."""

_execution = msgspec.json.Decoder(wire.Execution)


@dataclass(frozen=True, slots=True)
class Row:
    """An execution's row, never changed once made."""

    execution: wire.Execution
    size_bytes: int

    @classmethod
    def of_answer(cls, body: bytes) -> "Row":
        return cls(_execution.decode(body), _ROW_OVERHEAD_BYTES + len(body))

    def is_of(self, execution_id: int) -> bool:
        return self.execution.execution_id == execution_id


def registry_of_answer(body: bytes) -> Registry:
    return Registry.of_answer(msgspec.json.decode(body))


def registry_with(registry: Registry, entries: Sequence[Entry]) -> Registry:
    if not entries:
        return registry
    changed = registry.copy()
    for entry in entries:
        changed.apply(msgspec.json.decode(entry.document))
    return changed


def row_with(row: Row, entries: Sequence[Entry]) -> Row:
    if not entries:
        return row
    execution = msgspec.structs.replace(row.execution)
    lay_over(execution, entries)
    return Row(execution, row.size_bytes + sum(len(entry.document) for entry in entries))


def lay_over(row: wire.Execution, entries: Sequence[Entry]) -> None:
    for entry in entries:
        operations.overlay_execution(row, msgspec.json.decode(entry.document))
