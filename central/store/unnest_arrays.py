"""What the fold wants written, as columns: arrays for `unnest`, in the order of the SQL blocks."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import UNSET

from central.domain.fold import ExecutionChange
from central.domain.uri_registry import RegistryChange


def execution_columns(executions: Mapping[int, ExecutionChange]) -> list[Sequence[object]]:
    """Execution id, status, its age in ms, result, whether log_location is named, log_location,
    runtime_stats_uri, its bytes, name, bookmarked."""
    changes = executions.values()
    names_log_location = [change.log_location is not UNSET for change in changes]
    columns: list[list[object]] = [
        [change.status for change in changes],
        [change.status_age_ms for change in changes],
        [change.result for change in changes],
        [is_named or None for is_named in names_log_location],
        [None if change.log_location is UNSET else change.log_location for change in changes],
        [change.runtime_stats_uri for change in changes],
        [change.runtime_stats_bytes for change in changes],
        [change.name for change in changes],
        [change.bookmarked for change in changes],
    ]
    # unnest fills short arrays up with nulls, so a column that nobody named costs nothing.
    return [list(executions), *(c if any(v is not None for v in c) else [] for c in columns)]


def registry_columns(
    changes: Mapping[tuple[int, str], RegistryChange | None],
) -> list[list[object]]:
    """Execution id, key, URI (None: only the size is named), bytes. Deletions are not in it."""
    rows = [(*key, change.uri, change.size_bytes) for key, change in changes.items() if change]
    return [list(column) for column in zip(*rows, strict=True)] or [[], [], [], []]


def cost_columns(operator_costs: Mapping[int, Mapping[str, float]]) -> list[list[object]]:
    """Execution id, operators as JSON text."""
    return [
        list(operator_costs),
        [msgspec.json.encode(operators).decode() for operators in operator_costs.values()],
    ]
