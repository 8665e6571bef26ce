"""`wait=`: a long poll ends with the write it waits for, own or another's, without busy polling."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.problems import ResultUriNotFound
from sidecar.wire import v1
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, caller, world

EID = 7
PORT = "(logicalOpId=op,layerName=main,portId=0,isInternal=false,isInput=false)"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    """One execution of the workflow, created elsewhere; tokens `a` and `b` may read it."""
    async with world(tmp_path) as here:
        here.central.add(EID)
        here.central.readers |= {("a", WORKFLOW), ("b", WORKFLOW)}
        yield here


async def test_a_long_poll_ends_with_the_write_it_waits_for(here: World) -> None:
    await here.bind(EID)
    query = v1.ResultUriQuery("op", wait=60)
    waiting = [asyncio.create_task(here.reads.result_uri(EID, query, caller())) for _ in range(50)]
    await asyncio.sleep(0)

    await here.put_result(EID, PORT, "vfs:///a")
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*waiting)

    assert {(answer.uri, seen.cache_status) for answer, seen in answers} == {
        ("vfs:///a", "pending")
    }
    assert here.central.calls == []


async def test_long_polls_of_one_execution_share_one_poll_task(here: World) -> None:
    query = v1.ResultUriQuery("op", wait=60)
    waiting = [
        asyncio.create_task(here.reads.result_uri(EID, query, caller(token)))
        for token in ("a", "b") * 100
    ]
    pauses_s = [await here.pauses_s.get() for _ in range(40)]
    calls = len(here.central.calls)

    here.central.registries[EID].results[PORT] = ("vfs:///a", 1)
    async with asyncio.timeout(30):
        answers = await asyncio.gather(*waiting)

    assert {answer.uri for answer, _ in answers} == {"vfs:///a"}
    assert calls <= 40 + 2, "one read of each of the two tokens, and the poll task's"
    assert pauses_s == sorted(pauses_s)
    assert pauses_s[-1] == 2.0
    assert here.reads.waiter_count == 0


async def test_a_long_poll_that_timed_out_is_not_found(here: World) -> None:
    with pytest.raises(ResultUriNotFound):
        await here.reads.result_uri(EID, v1.ResultUriQuery("op", wait=0.02), caller())

    assert here.reads.waiter_count == 0
