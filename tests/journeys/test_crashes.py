"""Hundreds of killed sidecars: what they had acknowledged is applied, once and in order.

Several sidecars, each with several writers on several executions, are killed at random times (some
time after some acknowledgements, or as they start) and started again, over and over; half of the
kills are power cuts (`crashing.lossy_disk`). In the end everything is delivered and compared with
the writers' history (`crashing.checker`). Each create is repeated until it gets a response, and has
made one execution, which was not closed as orphaned.

CRASH_KILLS and CRASH_SEED set how many and which; `make soak` is the long form.
"""

import asyncio
import os
import random
import secrets
from collections.abc import Iterator

import pytest

from dev.world import FIRST_NEW_ID
from tests.databases import Database, connected
from tests.journeys.crashing.processes import Sidecar, sample, until
from tests.journeys.crashing.scenario import Scenario, scenario
from tests.journeys.crashing.writers import Writer

KILLS = int(os.environ.get("CRASH_KILLS", "300"))
SEED = int(os.environ.get("CRASH_SEED", secrets.randbelow(10**6)))
SIDECARS = 4
LONGEST_LIFE_S = 0.3
MOST_AWAITED = 16
"""Of the acknowledgements that a life at work gives at least, however slow the machine is."""
CREATE_SHARE = 0.02
FAILING_SYNCS, FAILING_DEATHS = 0.05, 12


async def torment(
    sidecar: Sidecar, writers: list[Writer], kills: Iterator[int], chance: random.Random
) -> None:
    """Kill it while there are kills left, now at work, now as it starts; it runs in the end."""

    def acknowledged() -> int:
        return sum(writer.acknowledged_count for writer in writers)

    for _ in kills:
        if chance.random() < 0.8:
            awaited = acknowledged() + chance.randint(1, MOST_AWAITED)
            await until(lambda: acknowledged() >= awaited)  # noqa: B023 (it is awaited here)
        await asyncio.sleep(chance.uniform(0, LONGEST_LIFE_S))
        await sidecar.kill(chance)
        sidecar.start()
    await sidecar.until_ready()


async def created(it: Scenario) -> list[int]:
    """All new executions there are."""
    query = "select eid from texera_db.workflow_executions where eid >= $1 order by eid"
    async with connected(it.database.owner_url) as connection:
        return [row["eid"] for row in await connection.fetch(query, FIRST_NEW_ID)]


async def until_asked_for_open_bindings(sidecar: Sidecar) -> None:
    """Wait until it has compared what it has open at central with what its spool knows."""
    async with asyncio.timeout(60):
        while not await sample(sidecar.ops_url, calls("bindings")):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def calls(name: str) -> str:
    """The metric of a sidecar's successful calls to central."""
    return f'sidecar_upstream_requests_total{{call="{name}",outcome="ok"}}'


@pytest.mark.timeout(180 + KILLS)
async def test_killed_sidecars_lose_nothing_and_repeat_nothing(database: Database) -> None:
    async with scenario(database, SEED, create_share=CREATE_SHARE) as it:
        # The first is the very command of production, and is killed without losing power.
        sidecars = [await it.add_sidecar(forked=number > 0) for number in range(SIDECARS)]
        kills = iter(range(KILLS))  # whoever is ready for the next one takes it

        async with it.writing(), asyncio.TaskGroup() as group:
            for sidecar in sidecars:
                writers = [writer for writer in it.writers if writer.place is sidecar]
                group.create_task(torment(sidecar, writers, kills, it.chance))

        for sidecar in sidecars:
            await until_asked_for_open_bindings(sidecar)
        assert await it.violations() == [], f"CRASH_SEED={SEED}"
        assert await created(it) == sorted(it.execution_ids())
        assert [await sample(s.ops_url, calls("abandon")) for s in sidecars] == [0] * SIDECARS
        assert len(it.history.acknowledged()) > 5 * KILLS


@pytest.mark.timeout(180)
async def test_what_is_acknowledged_between_failed_syncs_survives_a_power_cut(
    database: Database,
) -> None:
    async with scenario(database, SEED) as it:
        sidecar = await it.add_sidecar()
        for writer in it.writers:
            writer.is_refused_at_times = True
        sidecar.failing_syncs = FAILING_SYNCS

        def failed_commits() -> int:
            return sidecar.log.read_text().count("spool commit failed")

        async with it.writing():
            for number in range(FAILING_DEATHS):
                await sidecar.kill(it.chance)
                sidecar.start()
                await until(lambda: failed_commits() > number + 1)  # noqa: B023 (awaited here)
                await asyncio.sleep(it.chance.uniform(0, LONGEST_LIFE_S))

        sidecar.failing_syncs = 0.0
        await sidecar.kill(it.chance)
        sidecar.start()
        await sidecar.until_ready()
        assert await it.violations() == [], f"CRASH_SEED={SEED}"
        assert len(it.history.acknowledged()) < len(it.history.writes)
        assert failed_commits() > FAILING_DEATHS
