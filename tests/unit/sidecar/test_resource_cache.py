"""The resource cache: what a write discards, what it changes, what is evicted for lack of room."""

from typing import Any

import msgspec
import pytest

from sidecar.cache.access import workflow_key
from sidecar.cache.invalidation import GenerationTable
from sidecar.cache.pending import CachedCosts, CachedExecution
from sidecar.cache.resources import CacheEntry, ResourceCache
from sidecar.cache.uri_registry import UriRegistry, uris_target
from sidecar.spool.bindings import Binding
from sidecar.spool.entry import Entry, Priority, WriteRecord, WriteState
from sidecar.wire import v1
from tests.unit.sidecar.read_fixtures import row

EID, OTHER_EID, WORKFLOW = 7, 8, 3
EMPTY_BYTES = UriRegistry().size_bytes
LATEST, COSTS = "latest", "costs"


class Bench:
    """A cache over a clock that is set by hand. `bindings` is what the spool knows."""

    def __init__(self, max_bytes: int = 100_000) -> None:
        self.now_s = 0.0
        self.evicted_count = 0
        self.bindings: dict[int, Binding] = {}
        self.cache = ResourceCache(
            self.bindings.get, max_bytes, lambda: self.now_s, self._count_eviction
        )

    def _count_eviction(self) -> None:
        self.evicted_count += 1

    def bind(self, execution_id: int, *, ended_at_ms: int | None = None) -> None:
        self.bindings[execution_id] = Binding(
            execution_id, WORKFLOW, 4, 1, None, created_here=True, ended_at_ms=ended_at_ms
        )

    def put_registry(self, execution_id: int, **parts: Any) -> CacheEntry[UriRegistry]:
        target, generation = uris_target(execution_id), self.cache.generation(execution_id)
        return self.cache.put(
            target, UriRegistry(**parts), generation, resource=execution_id, etag="a"
        )

    def put_workflow(self, execution_id: int) -> None:
        """The workflow's latest execution and the costs of its latest completed one."""
        workflow = workflow_key(WORKFLOW)
        generation = self.cache.generation(workflow)
        execution = CachedExecution(row(execution_id, WORKFLOW), 1000)
        self.cache.put(LATEST, execution, generation, resource=workflow, etag="a")
        costs = CachedCosts(v1.LatestCosts(execution_id, None, None), 1000)
        self.cache.put(COSTS, costs, generation, resource=workflow, etag="a")

    def registry(self, execution_id: int) -> CacheEntry[UriRegistry] | None:
        return self.cache.get(uris_target(execution_id))

    def settle(self, execution_id: int, state: WriteState, **write: Any) -> None:
        payload = msgspec.json.encode(write)
        entry = Entry(1, execution_id, 1, write["op"], Priority.NORMAL, None, payload)
        self.cache.on_settled([entry], [WriteRecord(1, execution_id, 1, write["op"], state)])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_fetch_that_a_write_overtook_is_not_kept(bench: Bench) -> None:
    generation = bench.cache.generation(EID)
    bench.cache.on_write(EID)

    bench.cache.put(uris_target(EID), UriRegistry(), generation, resource=EID)

    assert bench.registry(EID) is None
    bench.put_registry(EID)
    assert bench.registry(EID) is not None


def test_a_write_to_one_execution_leaves_fetches_of_another_valid(bench: Bench) -> None:
    generation = bench.cache.generation(EID)

    bench.cache.on_write(OTHER_EID)

    assert generation.is_valid


def test_clearing_ends_all_values_and_all_fetches_in_progress(bench: Bench) -> None:
    generation = bench.cache.generation(EID)
    kept = bench.put_registry(EID)
    bench.put_workflow(OTHER_EID)

    bench.cache.clear()

    assert (kept.token.is_valid, generation.is_valid) == (False, False)
    assert [bench.cache.get(t) for t in (uris_target(EID), LATEST, COSTS)] == [None] * 3
    assert (bench.cache.size_bytes, bench.evicted_count) == (0, 0)
    bench.put_registry(EID)
    bench.settle(EID, WriteState.COMMITTED, op="delete_uris")
    assert bench.registry(EID) is not None


def test_a_value_that_does_not_fit_evicts_the_least_recently_used() -> None:
    bench = Bench(2 * EMPTY_BYTES)

    kept = [bench.put_registry(execution_id) for execution_id in (1, 2, 3)]

    assert [bench.registry(n) is not None for n in (1, 2, 3)] == [False, True, True]
    assert [entry.token.is_valid for entry in kept] == [False, True, True]
    assert bench.evicted_count == 1
    assert bench.cache.size_bytes == 2 * EMPTY_BYTES


def test_a_value_larger_than_the_cache_is_returned_but_not_kept() -> None:
    bench = Bench(1)

    assert bench.put_registry(EID).value == UriRegistry()
    assert bench.registry(EID) is None


def test_the_same_value_again_keeps_its_token_and_another_one_does_not(bench: Bench) -> None:
    first, same = bench.put_registry(EID), bench.put_registry(EID)
    other = bench.put_registry(EID, consoles={"op": ("vfs:///c", 1)})

    assert first.token is same.token
    assert (first.token.is_valid, other.token.is_valid) == (False, True)


def test_a_committed_write_changes_the_registry_which_keeps_its_age(bench: Bench) -> None:
    bench.bind(EID)
    old = bench.put_registry(EID)
    bench.now_s = 5.0

    bench.settle(EID, WriteState.COMMITTED, op="put_console", operator_id="op", uri="vfs:///c")

    entry = bench.registry(EID)
    assert entry is not None
    assert entry.value.consoles == {"op": ("vfs:///c", 0)}
    assert (bench.cache.age_s(entry), entry.etag, entry.must_revalidate) == (5.0, None, False)
    assert (old.token.is_valid, entry.token.is_valid) == (False, True)


def test_a_refused_write_changes_no_value(bench: Bench) -> None:
    bench.bind(EID)
    old, generation = bench.put_registry(EID), bench.cache.generation(EID)

    bench.settle(EID, WriteState.REFUSED, op="put_console", operator_id="op", uri="vfs:///c")

    assert bench.registry(EID) is old
    assert not generation.is_valid


@pytest.mark.parametrize("is_bound", [True, False])
def test_a_committed_write_changes_what_the_workflow_shows_and_has_it_revalidated(
    bench: Bench, is_bound: bool
) -> None:
    bench.put_workflow(EID)
    if is_bound:
        bench.bind(EID)

    bench.settle(EID, WriteState.COMMITTED, op="update_execution", runtime_stats_uri="vfs:///s")

    latest, costs = bench.cache.get(LATEST), bench.cache.get(COSTS)
    assert latest is not None
    assert costs is not None
    assert latest.value.execution.runtime_stats_uri == "vfs:///s"
    assert costs.value.costs.runtime_stats_uri == "vfs:///s"
    assert latest.must_revalidate
    assert costs.must_revalidate


def test_a_committed_write_of_another_run_has_the_costs_revalidated(bench: Bench) -> None:
    bench.put_workflow(EID)
    bench.bind(OTHER_EID)

    bench.settle(OTHER_EID, WriteState.COMMITTED, op="update_execution", status="COMPLETED")

    costs = bench.cache.get(COSTS)
    assert costs is not None
    assert costs.must_revalidate
    assert costs.value.costs.execution_id == EID


def test_invalidated_resources_lose_their_values_tokens_and_fetches(bench: Bench) -> None:
    bench.bind(EID)
    bench.put_workflow(EID)
    registry, latest = bench.put_registry(EID), bench.cache.get(LATEST)
    generation = bench.cache.generation(EID)
    assert latest is not None

    bench.cache.invalidate(None, [EID])
    bench.cache.invalidate(None, [EID])

    assert bench.registry(EID) is None
    assert bench.cache.get(LATEST) is None
    tokens = (registry.token, latest.token, generation)
    assert [token.is_valid for token in tokens] == [False] * 3
    assert bench.cache.size_bytes == 0


def test_only_an_open_execution_created_here_has_a_sole_writer(bench: Bench) -> None:
    bench.bind(EID)
    bench.bind(OTHER_EID, ended_at_ms=1)

    are_sole = [bench.cache.is_sole_writer(r) for r in (EID, OTHER_EID, 9, workflow_key(WORKFLOW))]

    assert are_sole == [True, False, False, False]


def test_an_evicted_generation_counts_as_invalidated() -> None:
    generations = GenerationTable(max_count=2)
    first = generations.current(1)

    generations.current(2)
    generations.current(3)

    assert not first.is_valid
    assert generations.current(1) is not first
