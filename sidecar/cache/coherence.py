"""What the sidecar remembers of central's answers, kept in step with its own writes.

A registry is an execution's; rows and costs belong to an execution or to a workflow, and a
write to an execution concerns both. When a write is appended, what is fetched at that moment
is out of date; the remembered values stay, for the write is laid over them while it waits.
When it settles they take it in.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from sidecar.cache.access import workflow_key
from sidecar.cache.pending import CachedCosts, CachedExecution, registry_with
from sidecar.cache.resources import ResourceCache
from sidecar.cache.uri_registry import UriRegistry
from sidecar.spool.entry import Entry, WriteRecord, WriteState
from sidecar.spool.spool import Spool

ROWS_SHARE, COSTS_SHARE = 1 / 4, 1 / 12
"""Of the room: these are small, and a pod looks at few workflows."""


class CoherentCache:
    """The stores, and what writes do to them."""

    def __init__(
        self,
        spool: Spool,
        max_bytes: int,
        monotonic: Callable[[], float],
        on_evict: Callable[[], None],
    ) -> None:
        rows_bytes, costs_bytes = int(max_bytes * ROWS_SHARE), int(max_bytes * COSTS_SHARE)
        registries_bytes = max_bytes - rows_bytes - costs_bytes
        self._bindings = spool.bindings
        self.registries: ResourceCache[UriRegistry] = ResourceCache(
            registries_bytes, monotonic, on_evict
        )
        self.rows: ResourceCache[CachedExecution] = ResourceCache(rows_bytes, monotonic, on_evict)
        self.costs: ResourceCache[CachedCosts] = ResourceCache(costs_bytes, monotonic, on_evict)
        self._stores: tuple[ResourceCache[Any], ...] = (self.registries, self.rows, self.costs)

    @property
    def size_bytes(self) -> float:
        return sum(store.size_bytes for store in self._stores)

    def is_sole_writer(self, resource: Hashable) -> bool:
        """Whether nobody but this sidecar writes there: an execution made here, still bound."""
        binding = self._bindings.binding(resource) if isinstance(resource, int) else None
        return binding is not None and binding.created_here and binding.ended_at_ms is None

    def on_create(self, execution_id: int, workflow_id: int) -> None:
        """A new execution: its registry is known to be empty, and it may be the latest."""
        self.invalidate(workflow_id)
        generation = self.registries.generation(execution_id)
        self.registries.put(
            execution_id, UriRegistry(), generation, resource=execution_id, complete=True
        )

    def invalidate(self, workflow_id: int | None, execution_ids: Sequence[int] = ()) -> None:
        """Central has changed these in a way that only central can tell."""
        resources = {r for execution_id in execution_ids for r in self._resources(execution_id)}
        if workflow_id is not None:
            resources.add(workflow_key(workflow_id))
        for store in self._stores:
            for resource in resources:
                store.invalidate(resource)
                for key in store.keys_of(resource):
                    store.evict(key)

    def on_write(self, execution_id: int) -> None:
        """A write to the execution was appended or has settled."""
        for resource in self._resources(execution_id):
            for store in self._stores:
                store.invalidate(resource)

    def on_settled(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None:
        committed = {record.seq for record in records if record.state is WriteState.COMMITTED}
        for execution_id in {record.execution_id for record in records}:
            self.on_write(execution_id)
            applied = [e for e in entries if e.execution_id == execution_id and e.seq in committed]
            if applied:
                self._apply_committed(execution_id, applied)

    def _apply_committed(self, execution_id: int, applied: Sequence[Entry]) -> None:
        """What rows and costs become is good enough to be shown stale; what else the writes
        did (times, which run is now the last to have completed) central has to be asked."""
        registry = self.registries.get(execution_id)
        if registry is not None:
            self.registries.replace(execution_id, registry_with(registry.value, applied))
        for resource in self._resources(execution_id):
            for key in self.rows.keys_of(resource):
                row = self.rows.get(key)
                if row is not None and row.value.execution_id == execution_id:
                    self.rows.replace(key, row.value.with_pending(applied), must_revalidate=True)
            for key in self.costs.keys_of(resource):
                costs = self.costs.get(key)
                if costs is not None:
                    is_its = costs.value.execution_id == execution_id
                    value = costs.value.with_pending(applied) if is_its else costs.value
                    self.costs.replace(key, value, must_revalidate=True)

    def _resources(self, execution_id: int) -> tuple[Hashable, ...]:
        """What a write to the execution concerns: itself, and its workflow."""
        binding = self._bindings.binding(execution_id)
        if binding is not None:
            return (execution_id, workflow_key(binding.workflow_id))
        # Lost with this very settlement: whatever shows the execution belongs to its workflow.
        shown = {c.resource for c in self.rows.values() if c.value.execution_id == execution_id}
        shown |= {c.resource for c in self.costs.values() if c.value.execution_id == execution_id}
        return (execution_id, *(shown - {execution_id}))
