"""Cached values by target, bounded by bytes and coherent with the sidecar's own writes.

A write concerns its execution and the execution's workflow. When it is appended, their
generation is invalidated: fetches in flight are out of date, cached values stay and get the
pending write applied at each read. When it settles, the generation is invalidated again and
the values that show the execution are replaced by ones that contain the write.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, Self, TypeVar

from sidecar.cache.access import workflow_key
from sidecar.cache.invalidation import EvictingLru, GenerationTable, InvalidationToken
from sidecar.cache.uri_registry import UriRegistry, uris_target
from sidecar.spool.bindings import Binding
from sidecar.spool.entry import Entry, WriteRecord, WriteState


class CachedValue(Protocol):
    """Immutable: a change makes another value."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def execution_id(self) -> int | None:
        """The execution that the value shows; None where its resource says so."""

    @classmethod
    def from_json(cls, body: bytes) -> Self:
        """From the body of central's response."""

    def with_pending(self, entries: Sequence[Entry]) -> Self:
        """With the writes applied."""


ValueT = TypeVar("ValueT", bound=CachedValue)


@dataclass(frozen=True, slots=True)
class CacheEntry(Generic[ValueT]):
    """A value as it was at `stored_at`, on the monotonic clock.

    `changed_at`: since when it is this value; a lapsed grant shows only what was there before.
    `etag` is central's ETag of exactly this value, None once an own write changed it.
    `must_revalidate`: an own write may have changed more than the sidecar can compute (times,
    which run is now the latest completed one); shown without revalidation only as stale.
    """

    value: ValueT
    resource: Hashable
    stored_at: float
    changed_at: float
    etag: str | None = None
    must_revalidate: bool = False
    token: InvalidationToken = field(default_factory=InvalidationToken, compare=False)

    @property
    def execution_id(self) -> int | None:
        """The execution whose pending writes concern the value."""
        return self.resource if isinstance(self.resource, int) else self.value.execution_id


class ResourceCache:
    """`find_binding` returns the binding of an execution; `on_evict` counts evictions."""

    def __init__(
        self,
        find_binding: Callable[[int], Binding | None],
        max_bytes: int,
        monotonic: Callable[[], float],
        on_evict: Callable[[], None],
    ) -> None:
        self._find_binding = find_binding
        self._monotonic = monotonic
        self._on_evict = on_evict
        self._entries = EvictingLru[str, CacheEntry[Any]](
            max_bytes, self._evicted, lambda entry: entry.value.size_bytes
        )
        self._targets: dict[Hashable, set[str]] = {}
        self._generations = GenerationTable()

    # Values

    def get(self, target: str) -> CacheEntry[Any] | None:
        return self._entries.get(target)

    def generation(self, resource: Hashable) -> InvalidationToken:
        return self._generations.current(resource)

    def put(
        self,
        target: str,
        value: ValueT,
        generation: InvalidationToken,
        *,
        resource: Hashable,
        etag: str | None = None,
    ) -> CacheEntry[ValueT]:
        """Keeps a fetched value unless a write has invalidated the generation since."""
        old, now = self.get(target), self._monotonic()
        entry = CacheEntry(value, resource, now, now, etag)
        if old is not None and old.value == value:
            # An unchanged value keeps its token: copies of it stay valid.
            entry = replace(entry, changed_at=old.changed_at, token=old.token)
        if generation.is_valid:
            self._keep(target, entry)
        return entry

    def age_s(self, entry: CacheEntry[Any]) -> float:
        return self._monotonic() - entry.stored_at

    @property
    def size_bytes(self) -> float:
        return self._entries.currsize

    # Writes

    def is_sole_writer(self, resource: Hashable) -> bool:
        """Whether nobody but this sidecar writes there: an execution created here, still bound.

        What the cached value does not contain then does not exist.
        """
        binding = self._find_binding(resource) if isinstance(resource, int) else None
        return binding is not None and binding.created_here and binding.ended_at_ms is None

    def on_create(self, execution_id: int, workflow_id: int) -> None:
        """A new execution has no URIs, and may be its workflow's latest."""
        self.invalidate(workflow_id)
        generation = self.generation(execution_id)
        self.put(uris_target(execution_id), UriRegistry(), generation, resource=execution_id)

    def invalidate(self, workflow_id: int | None, execution_ids: Sequence[int] = ()) -> None:
        """A call of the sidecar changed these at central in a way that only central knows."""
        resources = {r for execution_id in execution_ids for r in self._resources(execution_id)}
        if workflow_id is not None:
            resources.add(workflow_key(workflow_id))
        for resource in resources:
            self._generations.invalidate(resource)
            for target in tuple(self._targets.get(resource, ())):
                self._removed(target, self._entries.pop(target))

    def clear(self) -> None:
        """Evicts all, whatever state an error has left it in."""
        self._generations.clear()
        self._targets.clear()
        for target in list(self._entries):
            self._entries.pop(target).token.is_valid = False

    def on_write(self, execution_id: int) -> None:
        """A write to the execution was appended or has settled."""
        for resource in self._resources(execution_id):
            self._generations.invalidate(resource)

    def on_settled(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None:
        committed = {record.seq for record in records if record.state is WriteState.COMMITTED}
        for execution_id in {record.execution_id for record in records}:
            self.on_write(execution_id)
            applied = [e for e in entries if e.execution_id == execution_id and e.seq in committed]
            if applied:
                self._apply_committed(execution_id, applied)

    def _apply_committed(self, execution_id: int, applied: Sequence[Entry]) -> None:
        for resource in self._resources(execution_id):
            for target in tuple(self._targets.get(resource, ())):
                old = self.get(target)
                if old is None:
                    continue  # evicted by a value that has grown
                is_shown = old.execution_id == execution_id
                changed_at = self._monotonic() if is_shown else old.changed_at
                self._keep(
                    target,
                    CacheEntry(
                        old.value.with_pending(applied) if is_shown else old.value,
                        resource,
                        old.stored_at,
                        changed_at,
                        # URIs are written once: nothing else of a registry can have changed.
                        must_revalidate=not isinstance(old.value, UriRegistry),
                    ),
                )

    def _resources(self, execution_id: int) -> tuple[Hashable, ...]:
        """What a write to the execution concerns: the execution and its workflow."""
        binding = self._find_binding(execution_id)
        if binding is not None:
            return (execution_id, workflow_key(binding.workflow_id))
        # The binding was lost with this very settlement: values that show the execution name it.
        shown = {e.resource for e in self._entries.values() if e.execution_id == execution_id}
        return (execution_id, *(shown - {execution_id}))

    # Room

    def _keep(self, target: str, entry: CacheEntry[Any]) -> None:
        old = self._entries.pop(target, None)
        if old is not None:
            self._removed(target, old, is_ended=old.token is not entry.token)
        if entry.value.size_bytes <= self._entries.maxsize:
            self._entries[target] = entry
            self._targets.setdefault(entry.resource, set()).add(target)

    def _evicted(self, target: str, entry: CacheEntry[Any]) -> None:
        self._removed(target, entry)
        self._on_evict()

    def _removed(self, target: str, entry: CacheEntry[Any], *, is_ended: bool = True) -> None:
        if is_ended:
            entry.token.is_valid = False
        targets = self._targets[entry.resource]
        targets.discard(target)
        if not targets:
            del self._targets[entry.resource]
