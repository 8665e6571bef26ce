"""Waiting or just committed writes, laid over what is remembered of central's answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sidecar import write_operations
from sidecar.cache.uri_registry import UriRegistry
from sidecar.spool.entry import Entry
from sidecar.wire import v1

_OVERHEAD_BYTES = 1500
"""What a decoded answer costs beside its texts: the struct, its strings, key, mark and ETag."""

_execution = msgspec.json.Decoder(v1.Execution)
_costs = msgspec.json.Decoder(v1.LatestCosts)


@dataclass(frozen=True, slots=True)
class CachedExecution:
    """An execution's row, never changed once made."""

    execution: v1.Execution
    size_bytes: int

    @classmethod
    def from_json(cls, body: bytes) -> "CachedExecution":
        return cls(_execution.decode(body), _OVERHEAD_BYTES + len(body))

    @property
    def execution_id(self) -> int:
        return self.execution.execution_id

    def with_pending(self, entries: Sequence[Entry]) -> "CachedExecution":
        """With the writes laid over it."""
        if not entries:
            return self
        execution = msgspec.structs.replace(self.execution)
        apply_pending(execution, entries)
        return CachedExecution(
            execution, self.size_bytes + sum(len(entry.document) for entry in entries)
        )


@dataclass(frozen=True, slots=True)
class CachedCosts:
    """What the latest completed run's operators cost, never changed once made."""

    costs: v1.LatestCosts
    size_bytes: int

    @classmethod
    def from_json(cls, body: bytes) -> "CachedCosts":
        # Decoded, an operator's name and seconds take about four times their text.
        return cls(_costs.decode(body), _OVERHEAD_BYTES + 4 * len(body))

    @property
    def execution_id(self) -> int:
        return self.costs.execution_id

    def with_pending(self, entries: Sequence[Entry]) -> "CachedCosts":
        """With the writes laid over it."""
        if not entries:
            return self
        costs = msgspec.structs.replace(self.costs)
        for entry in entries:
            write_operations.apply_pending_costs(costs, msgspec.json.decode(entry.document))
        return CachedCosts(
            costs, self.size_bytes + 4 * sum(len(entry.document) for entry in entries)
        )


def decode_registry(body: bytes) -> UriRegistry:
    return UriRegistry.from_json(msgspec.json.decode(body))


def registry_with(registry: UriRegistry, entries: Sequence[Entry]) -> UriRegistry:
    if not entries:
        return registry
    changed = registry.copy()
    for entry in entries:
        changed.apply(msgspec.json.decode(entry.document))
    return changed


def apply_pending(row: v1.Execution, entries: Sequence[Entry]) -> None:
    for entry in entries:
        write_operations.apply_pending_execution(row, msgspec.json.decode(entry.document))
