"""Keys are replaced under load, by sidecars that are killed: nothing is lost, doubled or reordered.

Each start finds its key too old and replaces it at once, so that a kill meets a rotation at any of
its steps; what a step leaves behind is tested one by one in tests/integration/test_key_rotation.py.
"""

import asyncio
import os
import secrets

import pytest

from tests.databases import Database, connected
from tests.journeys.crashing.processes import sample, until_sampled
from tests.journeys.crashing.scenario import scenario
from tests.journeys.test_crashes import CREATE_SHARE, created, torment

KILLS = int(os.environ.get("ROTATION_KILLS", "40"))
SEED = int(os.environ.get("CRASH_SEED", secrets.randbelow(10**6)))
SIDECARS = 2
ALWAYS_TOO_OLD = {"SIDECAR_KEY_MAX_AGE_S": "0.01"}


@pytest.mark.timeout(180 + KILLS)
async def test_writes_run_through_rotations_and_kills(database: Database) -> None:
    async with scenario(database, SEED, create_share=CREATE_SHARE) as it:
        sidecars = [
            await it.add_sidecar(forked=number > 0, settings=ALWAYS_TOO_OLD)
            for number in range(SIDECARS)
        ]
        kills = iter(range(KILLS))

        async with it.writing(), asyncio.TaskGroup() as group:
            for sidecar in sidecars:
                writers = [writer for writer in it.writers if writer.place is sidecar]
                group.create_task(torment(sidecar, writers, kills, it.chance))

        rotated = 'sidecar_key_rotations_total{outcome="rotated"}'
        for sidecar in sidecars:
            if not await sample(sidecar.ops_url, rotated):
                await until_sampled(sidecar.ops_url, rotated, more=1)
        assert await it.violations() == [], f"CRASH_SEED={SEED}"
        assert await created(it) == sorted(it.execution_ids())
        async with connected(it.database.owner_url) as connection:
            rotations = await connection.fetchval(
                "select count(*) from cu_metadata.audit_events where action = 'rotate'"
            )
            refused = await connection.fetchval(
                "select array_agg(distinct slug) from cu_metadata.refusals"
                " where slug not in ('source-succeeded', 'source-not-bound')"
            )
        assert rotations > KILLS / 4
        assert refused is None
