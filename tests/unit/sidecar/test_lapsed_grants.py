"""What a lapsed grant still shows while central is away, and that nothing else is shown."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.problems import CentralUnavailable
from tests.unit.sidecar.read_fixtures import ACCESS_TTL_S, WORKFLOW, World, caller, open_world

EID = 7


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """One execution of the workflow, created elsewhere; tokens `a` and `b` may read it."""
    async with open_world(tmp_path) as world:
        world.central.add(EID)
        world.central.readers |= {("a", WORKFLOW), ("b", WORKFLOW)}
        yield world


async def test_a_lapsed_grant_shows_nothing_while_only_calls_fail(world: World) -> None:
    await world.reads.execution(EID, caller())
    world.clock.now_s += ACCESS_TTL_S
    world.central.fails_calls = True

    with pytest.raises(CentralUnavailable):
        await world.reads.execution(EID, caller())

    world.central.is_down = True
    assert (await world.reads.execution(EID, caller())).cache_status == "stale"


async def test_a_grant_that_lapses_during_a_slow_call_shows_nothing(tmp_path: Path) -> None:
    async with open_world(tmp_path, stale_if_slow_s=0.01) as world:
        world.central.add(EID)
        world.central.readers.add(("a", WORKFLOW))
        await world.reads.execution(EID, caller())
        world.clock.now_s += ACCESS_TTL_S - 1
        world.central.may_respond.clear()
        world.central.called.clear()

        reading = asyncio.create_task(world.reads.execution(EID, caller()))
        await world.central.called.wait()
        world.clock.now_s += 1

        with pytest.raises(CentralUnavailable):
            await reading


@pytest.mark.parametrize("changed_by", ["another reader's call", "an own write that settles"])
async def test_a_lapsed_grant_shows_nothing_that_was_stored_after_it_lapsed(
    world: World, changed_by: str
) -> None:
    world.central.users["b"] = 2
    await world.bind(EID, created_here=False)
    await world.reads.execution(EID, caller("b"))
    world.clock.now_s += ACCESS_TTL_S + 1
    if changed_by == "another reader's call":
        world.central.rows[EID].name = "renamed"
        assert (await world.reads.execution(EID, caller("a"))).value.execution.name == "renamed"
    else:
        await world.write(EID, "update_execution", name="renamed")
        await world.deliver()
    world.central.is_down = True

    with pytest.raises(CentralUnavailable):
        await world.reads.execution(EID, caller("b"))


async def test_a_value_that_was_only_confirmed_is_as_old_as_it_was(world: World) -> None:
    await world.reads.execution(EID, caller("b"))
    world.clock.now_s += ACCESS_TTL_S + 1
    await world.reads.execution(EID, caller("a"))
    world.central.is_down = True

    assert (await world.reads.execution(EID, caller("b"))).cache_status == "stale"


async def test_a_lapsed_grant_shows_own_pending_writes_and_no_other_users(world: World) -> None:
    world.central.users["b"] = 2
    for token in ("a", "b"):
        await world.reads.execution(EID, caller(token))
    await world.bind(EID, created_here=False)
    world.central.is_down = True
    world.clock.now_s += ACCESS_TTL_S - 1
    await world.write(EID, "update_execution", name="renamed")  # user 1, whose token is a

    names = {}
    for is_lapsed in (False, True):
        for token in ("a", "b"):
            seen = await world.reads.execution(EID, caller(token))
            names[token, is_lapsed] = seen.value.execution.name
        world.clock.now_s += 2

    assert names == {
        ("a", False): "renamed",
        ("b", False): "renamed",
        ("a", True): "renamed",
        ("b", True): "a run",
    }
