"""Cached rows and costs, and how writes are applied to them while pending and once committed."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from sidecar import write_operations
from sidecar.spool.entry import Entry
from sidecar.upstream.central_api import decode_response
from sidecar.wire import v1

_OVERHEAD_BYTES = 1500
"""Of a decoded value beside its texts: the struct, its strings, key, token and ETag."""

_execution = msgspec.json.Decoder(v1.Execution)
_costs = msgspec.json.Decoder(v1.LatestCosts)


@dataclass(frozen=True, slots=True)
class CachedExecution:
    """An execution's row; immutable."""

    execution: v1.Execution
    size_bytes: int

    @classmethod
    def from_json(cls, body: bytes) -> "CachedExecution":
        return cls(decode_response(body, _execution), _OVERHEAD_BYTES + len(body))

    @property
    def execution_id(self) -> int:
        return self.execution.execution_id

    def with_pending(self, entries: Sequence[Entry]) -> "CachedExecution":
        if not entries:
            return self
        execution = msgspec.structs.replace(self.execution)
        apply_pending(execution, entries)
        added_bytes = sum(len(entry.payload) for entry in entries)
        return CachedExecution(execution, self.size_bytes + added_bytes)


@dataclass(frozen=True, slots=True)
class CachedCosts:
    """The operator costs of a workflow's latest completed run; immutable."""

    costs: v1.LatestCosts
    size_bytes: int

    @classmethod
    def from_json(cls, body: bytes) -> "CachedCosts":
        # Decoded, an operator's name and seconds take about four times their text.
        return cls(decode_response(body, _costs), _OVERHEAD_BYTES + 4 * len(body))

    @property
    def execution_id(self) -> int:
        return self.costs.execution_id

    def with_pending(self, entries: Sequence[Entry]) -> "CachedCosts":
        if not entries:
            return self
        costs = msgspec.structs.replace(self.costs)
        for entry in entries:
            write_operations.apply_pending_costs(costs, msgspec.json.decode(entry.payload))
        added_bytes = 4 * sum(len(entry.payload) for entry in entries)
        return CachedCosts(costs, self.size_bytes + added_bytes)


def apply_pending(row: v1.Execution, entries: Sequence[Entry]) -> None:
    for entry in entries:
        write_operations.apply_pending_execution(row, msgspec.json.decode(entry.payload))
