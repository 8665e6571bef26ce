"""Hundreds of killed sidecars: what they had acknowledged arrives, once and in order.

Several sidecars, each with several writers on several executions, are killed at random moments and
started again, over and over; half of the kills are power cuts (`crashing.lossy_disk`). In the end
everything is delivered, and judged by what the writers were told (`crashing.judge`).

CRASH_KILLS and CRASH_SEED set how many and which; `make soak` is the long form.
"""

import asyncio
import os
import random
import secrets
from collections.abc import Iterator

import pytest

from tests.databases import Database
from tests.journeys.crashing.processes import Sidecar
from tests.journeys.crashing.trial import trial

KILLS = int(os.environ.get("CRASH_KILLS", "300"))
SEED = int(os.environ.get("CRASH_SEED", secrets.randbelow(10**6)))
SIDECARS = 4
LONGEST_LIFE_S = 0.3
LONGEST_PAUSE_S = 0.004  # of a writer: without any, writing takes the time that kills need


async def torment(sidecar: Sidecar, kills: Iterator[int], chance: random.Random) -> None:
    """Kill it while there are kills left, now at work, now as it starts; it runs in the end."""
    for _ in kills:
        if chance.random() < 0.8:
            await sidecar.until_ready()
        await asyncio.sleep(chance.uniform(0, LONGEST_LIFE_S))
        await sidecar.kill(chance)
        sidecar.start()
    await sidecar.until_ready()


@pytest.mark.timeout(120 + KILLS)
async def test_killed_sidecars_lose_nothing_and_repeat_nothing(database: Database) -> None:
    async with trial(database, SEED, longest_pause_s=LONGEST_PAUSE_S) as it:
        # The first is the very command of production, and is killed without losing power.
        sidecars = [await it.add_sidecar(forked=number > 0) for number in range(SIDECARS)]
        kills = iter(range(KILLS))  # whoever is ready for the next one takes it

        async with it.writing(), asyncio.TaskGroup() as group:
            for sidecar in sidecars:
                group.create_task(torment(sidecar, kills, it.chance))

        assert await it.complaints() == [], f"CRASH_SEED={SEED}"
        assert len(it.ledger.acknowledged()) > 5 * KILLS
