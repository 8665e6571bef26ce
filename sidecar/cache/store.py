"""Registries by execution, bounded by bytes, with the generations that keep them coherent."""

from collections.abc import Callable
from dataclasses import dataclass

from cachetools import LRUCache

from sidecar.cache.registry import Registry

GENERATIONS_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class Cached:
    """`complete`: nobody but this sidecar writes here, so what is not in it does not exist."""

    registry: Registry
    stored_at: float
    complete: bool


class RegistryStore:
    """Remembered registries. Times are of a monotonic clock.

    `on_evict` is told of each value that had to leave for lack of room.
    """

    def __init__(
        self, max_bytes: int, monotonic: Callable[[], float], on_evict: Callable[[], None]
    ) -> None:
        self._monotonic = monotonic
        self._store = _Store(max_bytes, on_evict)
        self._generations: LRUCache[int, int] = LRUCache(GENERATIONS_KEPT)
        self._generation = 0

    def generation(self, execution_id: int) -> int:
        return self._generations.get(execution_id, 0)

    def move(self, execution_id: int) -> None:
        """A write was appended or settled: fetches under way are out of date.

        Generations are never reused, so one that was forgotten cannot come back as current.
        """
        self._generation += 1
        self._generations[execution_id] = self._generation

    def get(self, execution_id: int) -> Cached | None:
        return self._store.get(execution_id)

    def put(
        self, execution_id: int, registry: Registry, generation: int, *, complete: bool
    ) -> bool:
        """Remembers what was fetched, unless a write has moved the generation since."""
        if generation != self.generation(execution_id):
            return False
        if registry.size_bytes <= self._store.maxsize:
            self._store[execution_id] = Cached(registry, self._monotonic(), complete)
        return True

    def replace(self, execution_id: int, registry: Registry) -> None:
        """The value after a committed write of our own; it keeps its age."""
        cached = self._store.get(execution_id)
        if cached is not None:
            self._store[execution_id] = Cached(registry, cached.stored_at, cached.complete)

    def age_s(self, cached: Cached) -> float:
        return self._monotonic() - cached.stored_at

    @property
    def size_bytes(self) -> float:
        return self._store.currsize


class _Store(LRUCache[int, Cached]):
    def __init__(self, max_bytes: int, on_evict: Callable[[], None]) -> None:
        super().__init__(max_bytes, getsizeof=lambda cached: cached.registry.size_bytes)
        self._on_evict = on_evict

    def popitem(self) -> tuple[int, Cached]:
        self._on_evict()
        return super().popitem()
