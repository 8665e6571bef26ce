"""The stores: what is remembered, what a write throws away, what leaves for lack of room."""

import pytest

from sidecar.cache.invalidation import GenerationTable
from sidecar.cache.resources import CacheEntry, Store
from sidecar.cache.uri_registry import Registry

FULL = Registry(consoles={"op": ("vfs:///c", 1)})


class Shelf:
    """A store of registries, each its own resource, with a clock that is set by hand."""

    def __init__(self, max_bytes: int = 10_000) -> None:
        self.now_s = 0.0
        self.evicted_count = 0
        self.store: Store[Registry] = Store(max_bytes, lambda: self.now_s, self._evicted)

    def _evicted(self) -> None:
        self.evicted_count += 1

    def put(self, key: int, registry: Registry | None = None) -> CacheEntry[Registry]:
        generation = self.store.generation(key)
        return self.store.put(key, registry or Registry(), generation, resource=key)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def test_a_fetch_that_a_write_overtook_is_not_remembered(shelf: Shelf) -> None:
    generation = shelf.store.generation(7)
    shelf.store.move(7)

    shelf.store.put(7, Registry(), generation, resource=7)

    assert shelf.store.get(7) is None
    shelf.put(7)
    assert shelf.store.get(7) is not None


def test_a_write_to_one_execution_does_not_disturb_another(shelf: Shelf) -> None:
    generation = shelf.store.generation(7)

    shelf.store.move(8)
    shelf.store.put(7, Registry(), generation, resource=7)

    assert shelf.store.get(7) is not None


def test_what_does_not_fit_pushes_the_oldest_out() -> None:
    shelf = Shelf(2 * Registry().size_bytes)

    kept = [shelf.put(execution_id) for execution_id in (1, 2, 3)]

    assert [shelf.store.get(n) is not None for n in (1, 2, 3)] == [False, True, True]
    assert [cached.mark.holds for cached in kept] == [False, True, True]
    assert shelf.evicted_count == 1
    assert shelf.store.size_bytes == 2 * Registry().size_bytes
    assert [list(shelf.store.keys_of(n)) for n in (1, 2, 3)] == [[], [2], [3]]


def test_a_value_larger_than_the_store_is_answered_but_not_kept() -> None:
    shelf = Shelf(1)

    assert shelf.put(7).value == Registry()
    assert shelf.store.get(7) is None


def test_a_replaced_value_keeps_its_age_and_loses_its_name(shelf: Shelf) -> None:
    shelf.now_s = 10.0
    generation = shelf.store.generation(7)
    old = shelf.store.put(7, Registry(), generation, resource=7, complete=True, etag="a")
    shelf.now_s = 15.0

    shelf.store.replace(7, FULL)
    shelf.store.replace(8, FULL)

    cached = shelf.store.get(7)
    assert cached is not None
    assert (shelf.store.age_s(cached), cached.complete, cached.etag) == (5.0, True, None)
    assert cached.value == FULL
    assert cached.mark.holds
    assert not old.mark.holds
    assert shelf.store.get(8) is None


def test_a_forgotten_value_takes_its_mark_along(shelf: Shelf) -> None:
    cached = shelf.put(7)

    shelf.store.forget(7)
    shelf.store.forget(7)

    assert shelf.store.get(7) is None
    assert not cached.mark.holds
    assert shelf.store.size_bytes == 0


def test_a_generation_that_was_crowded_out_counts_as_moved() -> None:
    generations = GenerationTable(kept=2)
    first = generations.current(1)

    generations.current(2)
    generations.current(3)

    assert not first.holds
    assert generations.current(1) is not first
