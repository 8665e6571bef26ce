"""Waiting or just committed writes, laid over what is remembered of central's answers."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sidecar import operations, wire
from sidecar.cache.registry import Registry
from sidecar.spool.entry import Entry

_OVERHEAD_BYTES = 1500
"""What a decoded answer costs beside its texts: the struct, its strings, key, mark and ETag."""

_execution = msgspec.json.Decoder(wire.Execution)
_costs = msgspec.json.Decoder(wire.LatestCosts)


@dataclass(frozen=True, slots=True)
class Row:
    """An execution's row, never changed once made."""

    execution: wire.Execution
    size_bytes: int

    @classmethod
    def of_answer(cls, body: bytes) -> "Row":
        return cls(_execution.decode(body), _OVERHEAD_BYTES + len(body))

    @property
    def execution_id(self) -> int:
        return self.execution.execution_id

    def under(self, entries: Sequence[Entry]) -> "Row":
        """With the writes laid over it."""
        if not entries:
            return self
        execution = msgspec.structs.replace(self.execution)
        lay_over(execution, entries)
        return Row(execution, self.size_bytes + sum(len(entry.document) for entry in entries))


@dataclass(frozen=True, slots=True)
class Costs:
    """What the latest completed run's operators cost, never changed once made."""

    costs: wire.LatestCosts
    size_bytes: int

    @classmethod
    def of_answer(cls, body: bytes) -> "Costs":
        # Decoded, an operator's name and seconds take about four times their text.
        return cls(_costs.decode(body), _OVERHEAD_BYTES + 4 * len(body))

    @property
    def execution_id(self) -> int:
        return self.costs.execution_id

    def under(self, entries: Sequence[Entry]) -> "Costs":
        """With the writes laid over it."""
        if not entries:
            return self
        costs = msgspec.structs.replace(self.costs)
        for entry in entries:
            operations.overlay_costs(costs, msgspec.json.decode(entry.document))
        return Costs(costs, self.size_bytes + 4 * sum(len(entry.document) for entry in entries))


def registry_of_answer(body: bytes) -> Registry:
    return Registry.of_answer(msgspec.json.decode(body))


def registry_with(registry: Registry, entries: Sequence[Entry]) -> Registry:
    if not entries:
        return registry
    changed = registry.copy()
    for entry in entries:
        changed.apply(msgspec.json.decode(entry.document))
    return changed


def lay_over(row: wire.Execution, entries: Sequence[Entry]) -> None:
    for entry in entries:
        operations.overlay_execution(row, msgspec.json.decode(entry.document))
