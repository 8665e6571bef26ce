"""Who shares a call to central with whom: the same token, and nothing written in between."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.problems import UpstreamProblem
from tests.unit.sidecar.delivery_fixtures import until
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, caller, world

EID = 7
PORT = "(logicalOpId=op,layerName=main,portId=0,isInternal=false,isInput=false)"


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as here:
        here.central.add(EID)
        here.central.readers.add(("a", WORKFLOW))
        here.central.may_answer.clear()
        yield here


async def test_nobody_is_let_in_by_anothers_call(here: World) -> None:
    allowed = asyncio.create_task(here.reads.uris(EID, caller("a")))
    await here.central.called.wait()
    stranger = asyncio.create_task(here.reads.uris(EID, caller("stranger")))
    await until(lambda: len(here.central.calls) == 2)

    here.central.may_answer.set()

    assert (await allowed).value.results == {}
    with pytest.raises(UpstreamProblem):
        await stranger
    with pytest.raises(UpstreamProblem):
        await here.reads.uris(EID, caller("stranger"))


async def test_who_reads_after_a_write_shares_no_call_from_before_it(here: World) -> None:
    await here.bind(EID, created_here=False)
    here.central.answers_early = True
    before = asyncio.create_task(here.reads.uris(EID, caller()))
    await here.central.called.wait()

    await here.put_result(EID, PORT, "vfs:///a")
    await here.deliver()
    after = asyncio.create_task(here.reads.uris(EID, caller()))
    await until(lambda: len(here.central.calls) == 2)
    here.central.may_answer.set()

    for reading in (after, before):
        assert (await reading).value.results == {PORT: ("vfs:///a", 0)}
