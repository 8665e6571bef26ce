"""Central, Postgres and the network fail during a batch.

The same promises hold as for a killed sidecar (`test_crashes`).
"""

import asyncio
import os
from collections.abc import Iterator

import pytest

from dev.postgres import create_cluster, running
from dev.texera import create_owner
from tests.databases import Database, create_template, free_port, open_folder
from tests.journeys.crashing.ingress import ingress_to
from tests.journeys.crashing.pause_points import PausePoint
from tests.journeys.crashing.processes import Postgres, Sidecar, until, until_sampled
from tests.journeys.crashing.proxy import Cut, proxy_to
from tests.journeys.crashing.scenario import scenario

SEED = 5
ROUNDS = 3
SHORT_TIMEOUT = {"SIDECAR_UPSTREAM_TIMEOUT_S": "0.4"}


async def until_timed_out(sidecar: Sidecar, count: int) -> None:
    """Waits until the sidecar has failed `count` more times to send its batch."""
    name = 'sidecar_upstream_requests_total{call="batch",outcome="unreachable"}'
    await until_sampled(sidecar.ops_url, name, more=count)


@pytest.mark.parametrize("cut", Cut)
async def test_a_cut_connection_loses_and_repeats_nothing(database: Database, cut: Cut) -> None:
    async with scenario(database, SEED) as it, proxy_to(it.central, chance=it.chance) as proxy:
        await it.add_sidecar(central_url=proxy.url)
        proxy.cut, proxy.cut_share = cut, 0.4

        async with it.writing():
            await until(lambda: proxy.cut_count >= 10)
        proxy.cut = None

        assert await it.violations() == []


async def test_a_hung_central_loses_and_repeats_nothing(database: Database) -> None:
    async with scenario(database, SEED) as it:
        sidecar = await it.add_sidecar(settings=SHORT_TIMEOUT)

        async with it.writing():
            for _ in range(ROUNDS):
                with it.central.process.stopped():
                    await until_timed_out(sidecar, 1)

        assert await it.violations() == []


async def test_a_black_hole_loses_and_repeats_nothing(database: Database) -> None:
    async with scenario(database, SEED) as it, proxy_to(it.central, chance=it.chance) as proxy:
        sidecar = await it.add_sidecar(central_url=proxy.url, settings=SHORT_TIMEOUT)

        async with it.writing():
            for _ in range(ROUNDS):
                proxy.silence()
                await until_timed_out(sidecar, 3)
                proxy.heal()  # what was sent before arrives now, late

        assert await it.violations() == []
        assert await it.central.batches("repeated") > 0


async def test_two_replicas_given_each_batch_at_once_apply_it_once(database: Database) -> None:
    async with scenario(database, SEED) as it:
        other = await it.add_central()
        async with proxy_to(it.central, other, chance=it.chance) as proxy:
            await it.add_sidecar(central_url=proxy.url)
            proxy.cut, proxy.cut_share = Cut.BEFORE_RESPONSE, 0.3

            async with it.writing():
                await until(lambda: proxy.cut_count >= 10)
            proxy.cut = None

            assert await it.violations() == []
            assert await it.central.batches("repeated") > 0
            assert await other.batches("repeated") > 0
            assert await it.central.batches("applied_at_once") > 0
            assert await other.batches("applied_at_once") > 0


async def test_a_batch_found_too_large_after_it_was_applied_is_applied_once(
    database: Database,
) -> None:
    """The response to a batch is lost, and the resend meets a proxy with a limit; or the other
    way round. The sidecar dies in between at times."""
    async with scenario(database, SEED) as it, ingress_to(it.central.url, it.chance) as ingress:
        sidecar = await it.add_sidecar(central_url=ingress.url)
        ingress.max_body_bytes = 700
        ingress.limited_share, ingress.lost_share = 0.5, 0.5

        async with it.writing():
            for _ in range(ROUNDS):
                seen = ingress.too_large_count, ingress.lost_count
                await until(lambda: ingress.too_large_count >= seen[0] + 8)  # noqa: B023
                await until(lambda: ingress.lost_count >= seen[1] + 8)  # noqa: B023
                await sidecar.kill(it.chance)
                sidecar.start()
                await sidecar.until_ready()
        ingress.limited_share = ingress.lost_share = 0.0

        assert await it.violations() == []
        assert await it.central.batches("withdrawn") > 0
        assert await it.central.batches("repeated") > 0


@pytest.fixture
def crashable() -> Iterator[tuple[Postgres, Database]]:
    """A cluster with synced commits, not yet running, and a database in it."""
    with open_folder() as folder:
        log = folder / "postgres.log"
        cluster = create_cluster(folder / "postgres", free_port(), os.environ)
        with running(cluster, log):
            asyncio.run(create_owner(cluster))
            template = create_template(cluster, "template_current")
        yield Postgres(cluster, log), template.database(template.name)


@pytest.mark.parametrize(
    "pause_point",
    [PausePoint.BEFORE_COMMIT, PausePoint.DURING_COMMIT],
    ids=["before-commit", "during-commit"],
)
async def test_a_postgres_that_crashes_in_mid_batch_loses_and_repeats_nothing(
    crashable: tuple[Postgres, Database], pause_point: PausePoint
) -> None:
    postgres, database = crashable
    async with postgres.running(), scenario(database, SEED, pause_point=pause_point) as it:
        await it.add_sidecar()

        async with it.writing():
            for _ in range(ROUNDS):
                async with it.paused_batches() as paused:
                    await paused.until_reached()
                    await postgres.crash()
                postgres.start()
                await postgres.until_ready()

        assert await it.violations() == []
