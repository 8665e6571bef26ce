"""Remembered values by key, bounded by bytes, with the generations that keep them coherent."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from cachetools import LRUCache

from sidecar.cache.invalidation import GenerationTable, InvalidationToken


class Sized(Protocol):
    """What a store can bound."""

    @property
    def size_bytes(self) -> int: ...


ValueT = TypeVar("ValueT", bound=Sized)


@dataclass(frozen=True, slots=True)
class CacheEntry(Generic[ValueT]):
    """`complete`: nobody but this sidecar writes here, so what is not in it does not exist.

    `etag` is central's name for exactly this value, None once a write of ours changed it;
    `must_revalidate` is set where such a write may have changed more than we can know.
    """

    value: ValueT
    resource: Hashable
    stored_at: float
    complete: bool
    etag: str | None = None
    must_revalidate: bool = False
    token: InvalidationToken = field(default_factory=InvalidationToken, compare=False)


class ResourceCache(Generic[ValueT]):
    """Remembered values, each belonging to a resource. Times are of a monotonic clock.

    `on_evict` is told of each value that had to leave for lack of room.
    """

    def __init__(
        self, max_bytes: int, monotonic: Callable[[], float], on_evict: Callable[[], None]
    ) -> None:
        self._monotonic = monotonic
        self._by_resource: dict[Hashable, set[Hashable]] = {}
        self._values = _Values[ValueT](max_bytes, self._evicted)
        self._on_evict = on_evict
        self._generations = GenerationTable()

    def generation(self, resource: Hashable) -> InvalidationToken:
        return self._generations.current(resource)

    def invalidate(self, resource: Hashable) -> None:
        """A write was appended or settled: fetches under way are out of date."""
        self._generations.invalidate(resource)

    def get(self, key: Hashable) -> CacheEntry[ValueT] | None:
        return self._values.get(key)

    def keys_of(self, resource: Hashable) -> Iterable[Hashable]:
        return tuple(self._by_resource.get(resource, ()))

    def values(self) -> tuple[CacheEntry[ValueT], ...]:
        return tuple(self._values.values())

    def put(
        self,
        key: Hashable,
        value: ValueT,
        generation: InvalidationToken,
        *,
        resource: Hashable,
        complete: bool = False,
        etag: str | None = None,
    ) -> CacheEntry[ValueT]:
        """Remembers what was fetched, unless a write has moved the generation since."""
        old = self.get(key)
        is_same = old is not None and (old.value, old.complete) == (value, complete)
        # Whoever keeps the same value under its token need not look again.
        token = old.token if old is not None and is_same else InvalidationToken()
        cached = CacheEntry(value, resource, self._monotonic(), complete, etag, token=token)
        if generation.is_valid:
            self._keep(key, cached)
        return cached

    def replace(self, key: Hashable, value: ValueT, *, must_revalidate: bool = False) -> None:
        """The value after a committed write of our own; it keeps its age."""
        old = self.get(key)
        if old is not None:
            changed = CacheEntry(
                value,
                old.resource,
                old.stored_at,
                old.complete,
                must_revalidate=must_revalidate or old.must_revalidate,
            )
            self._keep(key, changed)

    def evict(self, key: Hashable) -> None:
        cached = self._values.pop(key, None)
        if cached is not None:
            self._left(key, cached)

    def age_s(self, cached: CacheEntry[ValueT]) -> float:
        return self._monotonic() - cached.stored_at

    def _keep(self, key: Hashable, cached: CacheEntry[ValueT]) -> None:
        old = self._values.pop(key, None)
        if old is not None:
            self._left(key, old, ends=old.token is not cached.token)
        if cached.value.size_bytes <= self._values.maxsize:
            self._values[key] = cached
            self._by_resource.setdefault(cached.resource, set()).add(key)

    def _evicted(self, key: Hashable, cached: CacheEntry[ValueT]) -> None:
        self._left(key, cached)
        self._on_evict()

    def _left(self, key: Hashable, cached: CacheEntry[ValueT], *, ends: bool = True) -> None:
        cached.token.is_valid &= not ends
        keys = self._by_resource[cached.resource]
        keys.discard(key)
        if not keys:
            del self._by_resource[cached.resource]

    @property
    def size_bytes(self) -> float:
        return self._values.currsize


class _Values(LRUCache[Hashable, CacheEntry[ValueT]]):
    def __init__(
        self, max_bytes: int, on_evict: Callable[[Hashable, CacheEntry[ValueT]], None]
    ) -> None:
        super().__init__(max_bytes, getsizeof=lambda cached: cached.value.size_bytes)
        self._on_evict = on_evict

    def popitem(self) -> tuple[Hashable, CacheEntry[ValueT]]:
        key, cached = super().popitem()
        self._on_evict(key, cached)
        return key, cached
