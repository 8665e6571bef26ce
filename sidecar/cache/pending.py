"""Cached rows and costs, and how writes are applied to them while pending and once committed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from kit.texera.statuses import TRANSIENT_CODE, Status
from sidecar.spool.entry import Entry
from sidecar.upstream.central_api import decode_response
from sidecar.wire import v1

_OVERHEAD_BYTES = 1500
"""Of a decoded value beside its texts: the struct, its strings, key, token and ETag."""

PLAIN_COLUMNS = tuple(name for name in v1.ExecutionChanges.__struct_fields__ if name != "status")
"""The fields of an `update_execution` that replace the row's as they are."""

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
            apply_to_costs(costs, msgspec.json.decode(entry.payload))
        added_bytes = 4 * sum(len(entry.payload) for entry in entries)
        return CachedCosts(costs, self.size_bytes + added_bytes)


def apply_pending(row: v1.Execution, entries: Sequence[Entry]) -> None:
    for entry in entries:
        apply_to_execution(row, msgspec.json.decode(entry.payload))


def apply_to_execution(row: v1.Execution, write: dict[str, Any]) -> None:
    """Applies a pending write to a row, by the rules that central will apply.

    Central refuses a write as a whole if its status does not follow the row's terminal status.
    """
    if write["op"] != "update_execution":
        return
    if "status" in write:
        status = Status(write["status"])
        if status.code != TRANSIENT_CODE:
            if not _may_follow(row, status):
                return
            row.set_status(status)
    for name in PLAIN_COLUMNS:
        if name in write:
            setattr(row, name, write[name])


def _may_follow(row: v1.Execution, status: Status) -> bool:
    """Whether central will store the status: a terminal one is final, unless it is provisional or
    KILLED becomes COMPLETED."""
    if not row.status.is_terminal or status is row.status:
        return True
    if row.provisional:
        return status.is_terminal
    return (row.status, status) == (Status.KILLED, Status.COMPLETED)


def apply_to_costs(costs: v1.LatestCosts, write: dict[str, Any]) -> None:
    """Applies a pending write to the costs of its execution."""
    if write["op"] == "put_operator_costs":
        costs.operators = write["operators"]
    elif write["op"] == "update_execution":
        costs.runtime_stats_uri = write.get("runtime_stats_uri", costs.runtime_stats_uri)
