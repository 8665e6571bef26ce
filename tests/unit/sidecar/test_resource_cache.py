"""The stores: what is remembered, what a write throws away, what leaves for lack of room."""

import pytest

from sidecar.cache.invalidation import GenerationTable
from sidecar.cache.resources import CacheEntry, ResourceCache
from sidecar.cache.uri_registry import UriRegistry

FULL = UriRegistry(consoles={"op": ("vfs:///c", 1)})


class Shelf:
    """A store of registries, each its own resource, with a clock that is set by hand."""

    def __init__(self, max_bytes: int = 10_000) -> None:
        self.now_s = 0.0
        self.evicted_count = 0
        self.store: ResourceCache[UriRegistry] = ResourceCache(
            max_bytes, lambda: self.now_s, self._evicted
        )

    def _evicted(self) -> None:
        self.evicted_count += 1

    def put(self, key: int, registry: UriRegistry | None = None) -> CacheEntry[UriRegistry]:
        generation = self.store.generation(key)
        return self.store.put(key, registry or UriRegistry(), generation, resource=key)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def test_a_fetch_that_a_write_overtook_is_not_remembered(shelf: Shelf) -> None:
    generation = shelf.store.generation(7)
    shelf.store.invalidate(7)

    shelf.store.put(7, UriRegistry(), generation, resource=7)

    assert shelf.store.get(7) is None
    shelf.put(7)
    assert shelf.store.get(7) is not None


def test_a_write_to_one_execution_does_not_disturb_another(shelf: Shelf) -> None:
    generation = shelf.store.generation(7)

    shelf.store.invalidate(8)
    shelf.store.put(7, UriRegistry(), generation, resource=7)

    assert shelf.store.get(7) is not None


def test_what_does_not_fit_pushes_the_oldest_out() -> None:
    shelf = Shelf(2 * UriRegistry().size_bytes)

    kept = [shelf.put(execution_id) for execution_id in (1, 2, 3)]

    assert [shelf.store.get(n) is not None for n in (1, 2, 3)] == [False, True, True]
    assert [cached.token.is_valid for cached in kept] == [False, True, True]
    assert shelf.evicted_count == 1
    assert shelf.store.size_bytes == 2 * UriRegistry().size_bytes
    assert [list(shelf.store.keys_of(n)) for n in (1, 2, 3)] == [[], [2], [3]]


def test_a_value_larger_than_the_store_is_answered_but_not_kept() -> None:
    shelf = Shelf(1)

    assert shelf.put(7).value == UriRegistry()
    assert shelf.store.get(7) is None


def test_a_replaced_value_keeps_its_age_and_loses_its_name(shelf: Shelf) -> None:
    shelf.now_s = 10.0
    generation = shelf.store.generation(7)
    old = shelf.store.put(7, UriRegistry(), generation, resource=7, complete=True, etag="a")
    shelf.now_s = 15.0

    shelf.store.replace(7, FULL)
    shelf.store.replace(8, FULL)

    cached = shelf.store.get(7)
    assert cached is not None
    assert (shelf.store.age_s(cached), cached.complete, cached.etag) == (5.0, True, None)
    assert cached.value == FULL
    assert cached.token.is_valid
    assert not old.token.is_valid
    assert shelf.store.get(8) is None


def test_a_forgotten_value_takes_its_mark_along(shelf: Shelf) -> None:
    cached = shelf.put(7)

    shelf.store.evict(7)
    shelf.store.evict(7)

    assert shelf.store.get(7) is None
    assert not cached.token.is_valid
    assert shelf.store.size_bytes == 0


def test_a_generation_that_was_crowded_out_counts_as_moved() -> None:
    generations = GenerationTable(kept=2)
    first = generations.current(1)

    generations.current(2)
    generations.current(3)

    assert not first.is_valid
    assert generations.current(1) is not first
