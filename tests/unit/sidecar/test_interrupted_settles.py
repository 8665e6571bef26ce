"""A settle that was committed although its result was lost, until delivery has recovered it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.problems import SpoolUnavailable
from sidecar.spool.fault_injection import FaultPoint
from tests.unit.sidecar.read_fixtures import WORKFLOW, World, caller, open_world

EID, OTHER_EID = 7, 8
PORT = "(logicalOpId=op,layerName=main,portId=0,isInternal=false,isInput=false)"


class FailAfter:
    """The volume fails once, after this many more commits."""

    def __init__(self, commits: int) -> None:
        self._commits_left = commits

    def hit(self, point: FaultPoint) -> None:
        if point is FaultPoint.AFTER_COMMIT:
            self._commits_left -= 1
            if self._commits_left == 0:
                raise OSError("gone")


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    """Runs of two workflows; one has a pending URI and name, its values are cached."""
    async with open_world(tmp_path) as here:
        for execution_id, workflow_id in ((EID, WORKFLOW), (OTHER_EID, WORKFLOW + 1)):
            here.central.add(execution_id, workflow_id)
            await here.bind(execution_id)
        here.central.readers |= {("a", WORKFLOW), ("b", WORKFLOW)}
        for read in (here.reads.execution, here.reads.uris):
            await read(EID, caller())
        here.central.called.clear()
        await here.put_result(EID, PORT, "uri")
        await here.write(EID, "update_execution", name="new")
        yield here


async def interrupt_settle(here: World, *, refused: bool = False) -> None:
    """Central has applied or refused the writes, the spool has settled them, nobody knows."""
    here.spool._file.writer._faults = FailAfter(2)  # of cut and settle
    with pytest.raises(SpoolUnavailable):
        await here.deliver(refused=refused)


@pytest.mark.parametrize("is_reopened", [False, True])
async def test_settled_writes_stay_visible_until_delivery_recovers_them(
    here: World, is_reopened: bool
) -> None:
    await interrupt_settle(here)
    if is_reopened:
        await here.write(OTHER_EID, "update_execution", name="another")

    row = await here.reads.execution(EID, caller())
    uris = await here.reads.uris(EID, caller())

    assert row.value.execution.name == "new"
    assert uris.value.results == {PORT: ("uri", 0)}


async def test_refused_writes_are_shown_no_more_than_their_state_says(here: World) -> None:
    await interrupt_settle(here, refused=True)

    row = await here.reads.execution(EID, caller())
    uris = await here.reads.uris(EID, caller())

    assert row.value.execution.name == "a run"
    assert uris.value.results == {}


async def test_a_first_read_of_a_target_shows_them_too(here: World) -> None:
    here.central.answers_early = True
    here.central.may_respond.clear()
    reading = asyncio.create_task(here.reads.latest(WORKFLOW, None, caller("b")))
    await here.central.called.wait()
    await interrupt_settle(here)
    await here.write(OTHER_EID, "update_execution", name="another")
    here.central.may_respond.set()

    assert (await reading).value.execution.name == "new"
