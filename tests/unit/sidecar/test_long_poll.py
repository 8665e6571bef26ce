"""`wait=`: a long poll ends with the write it waits for, own or another's, without busy polling."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.problems import ResultUriNotFound
from sidecar.wire import v1
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, caller, open_world

EID = 7
PORT = "(logicalOpId=op,layerName=main,portId=0,isInternal=false,isInput=false)"


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """One execution of the workflow, created elsewhere; tokens `a` and `b` may read it."""
    async with open_world(tmp_path) as world:
        world.central.add(EID)
        world.central.readers |= {("a", WORKFLOW), ("b", WORKFLOW)}
        yield world


async def test_a_long_poll_ends_with_the_write_it_waits_for(world: World) -> None:
    await world.bind(EID)
    query = v1.ResultUriQuery("op", wait=60)
    waiting = [asyncio.create_task(world.reads.result_uri(EID, query, caller())) for _ in range(50)]
    await asyncio.sleep(0)

    await world.put_result(EID, PORT, "vfs:///a")
    async with asyncio.timeout(30):
        responses = await asyncio.gather(*waiting)

    assert {(response.uri, seen.cache_status) for response, seen in responses} == {
        ("vfs:///a", "pending")
    }
    assert world.central.calls == []


async def test_long_polls_of_one_execution_share_one_poll_task(world: World) -> None:
    query = v1.ResultUriQuery("op", wait=60)
    waiting = [
        asyncio.create_task(world.reads.result_uri(EID, query, caller(token)))
        for token in ("a", "b") * 100
    ]
    pauses_s = [await world.pauses_s.get() for _ in range(40)]
    calls = len(world.central.calls)

    world.central.registries[EID].results[PORT] = ("vfs:///a", 1)
    async with asyncio.timeout(30):
        responses = await asyncio.gather(*waiting)

    assert {response.uri for response, _ in responses} == {"vfs:///a"}
    assert calls <= 40 + 2, "one read of each of the two tokens, and the poll task's"
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[-1] == 2.0
    assert world.reads.waiter_count == 0


async def test_a_long_poll_that_timed_out_is_not_found(world: World) -> None:
    with pytest.raises(ResultUriNotFound):
        await world.reads.result_uri(EID, v1.ResultUriQuery("op", wait=0.02), caller())

    assert world.reads.waiter_count == 0
