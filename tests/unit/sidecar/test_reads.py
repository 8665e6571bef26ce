"""Reads: few calls to central, no outdated value, no value for a token without a grant."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.cache.access import token_digest
from sidecar.problems import (
    CentralUnavailable,
    TokenExpired,
    UpstreamProblem,
)
from sidecar.spool.bindings import Binding, Grant
from sidecar.wire import v1
from tests.unit.sidecar.delivery_fixtures import until
from tests.unit.sidecar.read_fixtures import (
    ACCESS_TTL_S,
    EXECUTION_CACHE_TTL_S,
    STALE_S,
    TERM_S,
    TOKEN,
    UNIT,
    WORKFLOW,
    World,
    caller,
    open_world,
)

EID, NEWER_EID = 7, 8
PORT = "(logicalOpId=op,layerName=main,portId=0,isInternal=false,isInput=false)"
QUERY = v1.ResultUriQuery("op")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """One execution of the workflow, created elsewhere; tokens `a` and `b` may read it."""
    async with open_world(tmp_path) as world:
        world.central.add(EID)
        world.central.readers |= {("a", WORKFLOW), ("b", WORKFLOW)}
        yield world


# Shared calls


async def test_a_thousand_concurrent_misses_make_one_call_even_if_one_caller_leaves(
    world: World,
) -> None:
    world.central.may_respond.clear()
    callers = [asyncio.create_task(world.reads.uris(EID, caller())) for _ in range(1000)]
    await world.central.called.wait()

    callers[0].cancel()
    world.central.may_respond.set()
    results = await asyncio.gather(*callers, return_exceptions=True)

    assert isinstance(results[0], asyncio.CancelledError)
    assert all(not isinstance(result, BaseException) for result in results[1:])
    assert len(world.central.calls) == 1


async def test_cached_uris_are_polled_without_a_call_to_central(world: World) -> None:
    world.central.registries[EID].results[PORT] = ("vfs:///a", 1)

    polled = [await world.reads.result_uri(EID, QUERY, caller()) for _ in range(1000)]

    assert {response.uri for response, _ in polled} == {"vfs:///a"}
    assert len(world.central.calls) == 1
    assert world.count("result-uri", "hit") == 999


async def test_an_old_row_is_revalidated_by_its_etag(world: World) -> None:
    first = await world.reads.latest(WORKFLOW, None, caller())
    world.clock.now_s += EXECUTION_CACHE_TTL_S
    second = await world.reads.latest(WORKFLOW, None, caller())
    third = await world.reads.latest(WORKFLOW, None, caller())

    assert [seen.cache_status for seen in (first, second, third)] == ["miss", "miss", "hit"]
    assert len(world.central.calls) == 2
    assert world.central.unchanged_count == 1


async def test_a_token_does_not_share_the_call_of_another_token(world: World) -> None:
    world.central.may_respond.clear()
    allowed = asyncio.create_task(world.reads.uris(EID, caller("a")))
    await world.central.called.wait()
    other_call = asyncio.create_task(world.reads.uris(EID, caller("other")))
    await until(lambda: len(world.central.calls) == 2)

    world.central.may_respond.set()

    assert (await allowed).value.results == {}
    with pytest.raises(UpstreamProblem):
        await other_call
    with pytest.raises(UpstreamProblem):
        await world.reads.uris(EID, caller("other"))


async def test_a_read_after_a_write_shares_no_call_from_before_it(world: World) -> None:
    world.central.may_respond.clear()
    await world.bind(EID, created_here=False)
    world.central.answers_early = True
    before = asyncio.create_task(world.reads.uris(EID, caller()))
    await world.central.called.wait()

    await world.put_result(EID, PORT, "vfs:///a")
    await world.deliver()
    after = asyncio.create_task(world.reads.uris(EID, caller()))
    await until(lambda: len(world.central.calls) == 2)
    world.central.may_respond.set()

    for reading in (after, before):
        assert (await reading).value.results == {PORT: ("vfs:///a", 0)}


# Coherence


@pytest.mark.parametrize("is_appended_before", [False, True])
async def test_a_write_during_a_refresh_discards_the_refresh(
    world: World, is_appended_before: bool
) -> None:
    await world.bind(EID, created_here=False)
    world.central.answers_early = True
    world.central.may_respond.clear()
    if is_appended_before:
        await world.put_result(EID, PORT, "vfs:///a")
    reading = asyncio.create_task(world.reads.uris(EID, caller()))
    await world.central.called.wait()

    if not is_appended_before:
        await world.put_result(EID, PORT, "vfs:///a")
    await world.deliver()
    world.central.may_respond.set()
    seen = await reading

    assert seen.value.results == {PORT: ("vfs:///a", 0)}, "the outdated value was returned"
    assert len(world.central.calls) == 2
    assert (await world.reads.uris(EID, caller())).value == seen.value


@pytest.mark.parametrize("is_delivered", [False, True])
@pytest.mark.parametrize("is_down", [False, True])
async def test_an_acknowledged_write_is_seen_by_every_later_read(
    world: World, is_delivered: bool, is_down: bool
) -> None:
    await world.bind(EID, created_here=False)
    for read in (
        world.reads.execution(EID, caller()),
        world.reads.latest(WORKFLOW, None, caller()),
    ):
        assert (await read).value.execution.name == "a run"

    await world.write(EID, "update_execution", name="renamed")
    if is_delivered:
        await world.deliver()
    world.central.is_down = is_down

    for read in (
        world.reads.execution(EID, caller()),
        world.reads.latest(WORKFLOW, None, caller()),
    ):
        seen = await read
        assert seen.value.execution.name == "renamed"
        assert seen.cache_status == ("stale" if is_down else "miss") if is_delivered else "pending"


async def test_a_refused_write_is_not_seen_after_its_settlement(world: World) -> None:
    await world.bind(EID, created_here=False)
    await world.reads.uris(EID, caller())
    await world.put_result(EID, PORT, "vfs:///a")
    assert (await world.reads.uris(EID, caller())).cache_status == "pending"

    await world.deliver(refused=True)

    assert (await world.reads.uris(EID, caller())).value.results == {}


async def test_an_execution_created_here_is_the_latest_at_once(world: World) -> None:
    await world.reads.latest(WORKFLOW, None, caller())
    world.central.add(NEWER_EID)
    assert (await world.reads.latest(WORKFLOW, None, caller())).value.execution.execution_id == EID

    await world.bind(NEWER_EID)

    newest = await world.reads.latest(WORKFLOW, None, caller())
    assert newest.value.execution.execution_id == NEWER_EID


async def test_a_replayed_create_is_the_latest_at_once_and_claims_no_authority(
    world: World,
) -> None:
    """Its first attempt took effect after the latest was cached, and its response was lost."""
    await world.reads.latest(WORKFLOW, None, caller())
    world.central.add(NEWER_EID)
    world.central.registries[NEWER_EID].results[PORT] = ("uri", 1)
    binding = Binding(NEWER_EID, WORKFLOW, UNIT, 1, None, created_here=False)
    expires_at = int(world.clock.now_s) + TERM_S

    grant = Grant(token_digest(TOKEN), NEWER_EID, 1, expires_at)
    world.reads.on_create(binding, grant, asked_at=world.clock.now_s)

    newest = await world.reads.latest(WORKFLOW, None, caller())
    assert newest.value.execution_id == NEWER_EID
    uris = await world.reads.uris(NEWER_EID, caller())
    assert uris.value.results == {PORT: ("uri", 1)}


async def test_an_execution_created_elsewhere_is_the_latest_after_the_ttl(world: World) -> None:
    await world.reads.latest(WORKFLOW, None, caller())
    world.central.add(NEWER_EID)

    world.clock.now_s += EXECUTION_CACHE_TTL_S

    newest = await world.reads.latest(WORKFLOW, None, caller())
    assert newest.value.execution.execution_id == NEWER_EID


async def test_pending_writes_of_a_new_latest_execution_are_seen(
    world: World,
) -> None:
    world.central.add(NEWER_EID)
    await world.bind(NEWER_EID)
    await world.write(NEWER_EID, "update_execution", status="RUNNING")

    seen = await world.reads.latest(WORKFLOW, None, caller())

    assert (seen.cache_status, seen.value.execution.status) == ("pending", "RUNNING")


async def test_values_that_a_forwarded_call_changed_are_fetched_again(world: World) -> None:
    await world.reads.execution(EID, caller())
    await world.reads.uris(EID, caller())
    del world.central.rows[EID]

    world.reads.invalidate(WORKFLOW, [EID])

    for read in (world.reads.execution(EID, caller()), world.reads.uris(EID, caller())):
        with pytest.raises(UpstreamProblem, match="not-found"):
            await read


# Access


async def test_a_token_sees_a_cached_value_only_after_its_own_grant(world: World) -> None:
    await world.reads.uris(EID, caller())
    await world.reads.latest(WORKFLOW, None, caller())

    for read in (
        world.reads.uris(EID, caller("c")),
        world.reads.latest(WORKFLOW, None, caller("c")),
    ):
        with pytest.raises(UpstreamProblem) as refused:
            await read
        assert refused.value.status == 404


@pytest.mark.parametrize(("age_s", "is_seen"), [(ACCESS_TTL_S - 1, True), (ACCESS_TTL_S, False)])
async def test_a_revoked_access_ends_within_the_access_ttl(
    world: World, age_s: float, is_seen: bool
) -> None:
    world.central.registries[EID].results[PORT] = ("vfs:///a", 1)
    await world.reads.result_uri(EID, QUERY, caller())
    world.central.readers.clear()

    world.clock.now_s += age_s

    if is_seen:
        await world.reads.result_uri(EID, QUERY, caller())
    else:
        with pytest.raises(UpstreamProblem):
            await world.reads.result_uri(EID, QUERY, caller())
        with pytest.raises(UpstreamProblem):
            await world.reads.result_uri(EID, QUERY, caller())


async def test_a_refusal_ends_access_to_every_value_of_the_resource(world: World) -> None:
    await world.reads.execution(EID, caller())
    await world.reads.uris(EID, caller())
    world.central.readers.clear()
    world.clock.now_s += EXECUTION_CACHE_TTL_S
    with pytest.raises(UpstreamProblem):
        await world.reads.execution(EID, caller())

    world.central.is_down = True

    for read in (world.reads.execution(EID, caller()), world.reads.uris(EID, caller())):
        with pytest.raises(CentralUnavailable):
            await read


# Outages


async def test_the_metrics_say_why_a_read_was_no_hit(world: World) -> None:
    def reasons() -> dict[tuple[str, str], float]:
        labels = {"resource": "latest"}
        return {
            (sample.labels["result"], sample.labels["reason"]): sample.value
            for family in world.metrics.cache_requests.collect()
            for sample in family.samples
            if labels.items() <= sample.labels.items() and sample.value
        }

    reads = world.reads
    await reads.latest(WORKFLOW, UNIT, caller("a"))
    await reads.latest(WORKFLOW, UNIT, caller("a"))
    await reads.latest(WORKFLOW, UNIT, caller("b"))
    world.clock.now_s += EXECUTION_CACHE_TTL_S
    await reads.latest(WORKFLOW, UNIT, caller("a"))
    world.central.is_down = True
    world.clock.now_s += EXECUTION_CACHE_TTL_S
    await reads.latest(WORKFLOW, UNIT, caller("a"))

    assert reasons() == {
        ("miss", "not-cached"): 1,
        ("hit", ""): 1,
        ("miss", "no-grant"): 1,
        ("miss", "expired"): 1,
        ("stale", "unavailable"): 1,
    }


async def test_cached_values_are_stale_and_others_503_while_central_is_down(world: World) -> None:
    world.central.registries[EID].results[PORT] = ("vfs:///a", 1)
    await world.reads.result_uri(EID, QUERY, caller())
    await world.reads.latest(WORKFLOW, None, caller())
    world.central.is_down = True

    for age_s in range(0, 600, 30):
        world.clock.now_s += 30
        response, seen = await world.reads.result_uri(EID, QUERY, caller())
        assert response.uri == "vfs:///a"
        assert seen.cache_status == ("stale" if age_s >= 30 else "hit")
        row = await world.reads.latest(WORKFLOW, None, caller())
        assert row.headers() == {"X-Cache": "stale", "Age": str(age_s + 30)}

    with pytest.raises(CentralUnavailable) as unknown:
        await world.reads.uris(NEWER_EID, caller())
    assert (unknown.value.status, "Retry-After" in unknown.value.headers) == (503, True)
    with pytest.raises(CentralUnavailable):
        await world.reads.latest(WORKFLOW, None, caller("b"))


async def test_an_outage_extends_no_access_beyond_the_token_and_the_stale_ttl(
    world: World,
) -> None:
    world.central.expires_at["b"] = int(world.clock.now_s) + 30
    for token in ("a", "b"):
        await world.reads.latest(WORKFLOW, None, caller(token))
    world.central.is_down = True

    world.clock.now_s += 30
    with pytest.raises(TokenExpired):
        await world.reads.latest(WORKFLOW, None, caller("b"))

    world.clock.now_s += ACCESS_TTL_S + STALE_S
    with pytest.raises(CentralUnavailable):
        await world.reads.latest(WORKFLOW, None, caller("a"))


@pytest.mark.parametrize("is_known_down", [False, True])
async def test_a_cached_value_is_stale_in_time_while_central_hangs(
    tmp_path: Path, is_known_down: bool
) -> None:
    async with open_world(tmp_path, stale_if_slow_s=0.01) as world:
        world.central.add(EID)
        world.central.readers.add(("a", WORKFLOW))
        await world.reads.latest(WORKFLOW, None, caller())
        world.central.may_respond.clear()
        world.central.is_known_down = is_known_down
        world.clock.now_s += ACCESS_TTL_S if is_known_down else EXECUTION_CACHE_TTL_S

        async with asyncio.timeout(30):
            seen = await world.reads.latest(WORKFLOW, None, caller())

        assert seen.cache_status == "stale"


async def test_a_stale_grant_is_not_used_while_central_is_slow(tmp_path: Path) -> None:
    async with open_world(tmp_path, stale_if_slow_s=0.01) as world:
        world.central.add(EID)
        world.central.readers.add(("a", WORKFLOW))
        await world.reads.latest(WORKFLOW, None, caller())
        world.clock.now_s += ACCESS_TTL_S
        world.central.readers.clear()
        world.central.may_respond.clear()

        reading = asyncio.create_task(world.reads.latest(WORKFLOW, None, caller()))
        _, still_waiting = await asyncio.wait({reading}, timeout=0.1)
        world.central.may_respond.set()

        assert still_waiting
        with pytest.raises(UpstreamProblem):
            await reading


async def test_a_rate_limited_caller_sees_stale_values_but_not_by_a_stale_grant(
    world: World,
) -> None:
    await world.reads.latest(WORKFLOW, None, caller())
    world.central.is_rate_limiting = True

    world.clock.now_s += ACCESS_TTL_S - 1
    assert (await world.reads.latest(WORKFLOW, None, caller())).cache_status == "stale"
    world.clock.now_s += 1
    with pytest.raises(UpstreamProblem) as refused:
        await world.reads.latest(WORKFLOW, None, caller())
    assert refused.value.status == 429
