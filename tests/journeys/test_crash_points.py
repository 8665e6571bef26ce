"""Killed between any two steps: append, commit, cut, send, apply, commit, answer, settle.

The sidecar's steps have a hook that costs production one call of an empty method
(`sidecar.spool.fault_injection`); central's are paused from inside Postgres
(`crashing.pause_points`).
"""

import asyncio

import pytest

from sidecar.spool.fault_injection import FaultPoint
from tests.databases import Database
from tests.journeys.crashing.pause_points import PausePoint
from tests.journeys.crashing.processes import POLL_S, Central
from tests.journeys.crashing.scenario import scenario

SIDECAR_DEATHS, CENTRAL_DEATHS = 4, 2
SEED = 3


@pytest.mark.parametrize("point", FaultPoint)
async def test_a_sidecar_that_dies_between_two_steps_loses_and_repeats_nothing(
    database: Database, point: FaultPoint
) -> None:
    async with scenario(database, SEED) as it:
        sidecar = await it.add_sidecar()

        async with it.writing():
            for _ in range(SIDECAR_DEATHS):
                await sidecar.kill(it.chance)
                sidecar.start(point, it.chance.randint(1, 10))
                await sidecar.dies(it.chance)
                sidecar.start()
                await sidecar.until_ready()

        assert await it.violations() == []


async def until_answered(central: Central, *outcomes: str) -> str:
    """Wait until a batch was answered in one of these ways; which it was."""
    async with asyncio.timeout(30):
        while True:
            for outcome in outcomes:
                if await central.batches(outcome):
                    return outcome
            await asyncio.sleep(POLL_S)


async def first_answer_of(central: Central) -> str:
    """How a process that has just started answered the batch in flight."""
    return await until_answered(central, "repeated", "applied")


@pytest.mark.parametrize(
    "pause_point", PausePoint, ids=[pause_point.name.lower() for pause_point in PausePoint]
)
async def test_a_central_that_dies_between_two_steps_loses_and_repeats_nothing(
    database: Database, pause_point: PausePoint
) -> None:
    async with scenario(database, SEED, pause_point=pause_point) as it:
        await it.add_sidecar()

        async with it.writing():
            for _ in range(CENTRAL_DEATHS):
                async with it.paused_batches() as paused:
                    # One that has just started takes its first batch step by step.
                    await it.central.process.kill()
                    it.central.start()
                    await paused.until_reached()
                    await it.central.process.kill()
                it.central.start()
                await it.central.until_ready()
                response = await first_answer_of(it.central)
                # Before the commit either may be: the process killed first may have left a single
                # statement behind, which goes on without it.
                assert response == "repeated" or pause_point is not PausePoint.DURING_COMMIT

        assert await it.violations() == []


async def test_a_central_that_dies_in_the_one_statement_loses_and_repeats_nothing(
    database: Database,
) -> None:
    async with scenario(database, SEED, pause_point=PausePoint.DURING_COMMIT) as it:
        await it.add_sidecar()

        async with it.writing():
            for _ in range(CENTRAL_DEATHS):
                # One that knows the executions sends a single statement, which goes on without it.
                await until_answered(it.central, "applied_at_once")
                async with it.paused_batches() as paused:
                    await paused.until_reached()
                    await it.central.process.kill()
                it.central.start()
                await it.central.until_ready()
                assert await first_answer_of(it.central) == "repeated"

        assert await it.violations() == []
