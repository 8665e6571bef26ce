"""A crash test: sidecars with their writers, central, faults, and the check of what was stored.

async with scenario(database, seed) as it:
    sidecar = await it.add_sidecar()
    async with it.writing():
        ...  # kill, stop, cut
    assert await it.violations() == []
"""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.databases import Database, connected, open_folder
from tests.journeys.crashing.checker import violations
from tests.journeys.crashing.fork_server import ForkServer
from tests.journeys.crashing.history import History
from tests.journeys.crashing.pause_points import PausedBatch, PausePoint, paused_batches
from tests.journeys.crashing.processes import Central, Sidecar
from tests.journeys.crashing.recorder import observe, watch
from tests.journeys.crashing.writers import Writer, create_executions, finish, writing

WRITERS, EXECUTIONS = 3, 3  # of each sidecar; every writer writes to every execution


@dataclass
class Scenario:
    """The processes and writers. A test that kills a process starts it again before the check."""

    database: Database
    folder: Path
    fork_server: ForkServer
    chance: random.Random
    create_share: float
    longest_pause_s: float = 0.004
    """Of a writer: without any, writing takes the time that all else needs."""
    central_settings: Mapping[str, str] = field(default_factory=dict)
    history: History = field(default_factory=History)
    centrals: list[Central] = field(default_factory=list)
    sidecars: list[Sidecar] = field(default_factory=list)
    writers: list[Writer] = field(default_factory=list)

    async def add_sidecar(
        self,
        *,
        forked: bool = True,
        central_url: str | None = None,
        settings: Mapping[str, str] = {},
    ) -> Sidecar:
        """A running sidecar with executions, forked from the fork server or started by command."""
        sidecar = Sidecar(
            self.folder / f"sidecar-{len(self.sidecars)}",
            central_url or self.central.url,
            self.fork_server if forked else None,
            settings,
        )
        self.sidecars.append(sidecar)
        sidecar.start()
        await sidecar.until_ready()
        await create_executions(sidecar, EXECUTIONS)
        for _ in range(WRITERS):
            name = f"w{len(self.writers)}"
            self.writers.append(
                Writer(
                    name,
                    sidecar,
                    self.history,
                    self.chance,
                    longest_pause_s=self.longest_pause_s,
                    create_share=self.create_share,
                )
            )
        return sidecar

    async def add_central(self) -> Central:
        """A further replica that runs."""
        log = self.folder / f"central-{len(self.centrals)}"
        central = Central(self.database.central_url, log, self.central_settings)
        self.centrals.append(central)
        central.start()
        await central.until_ready()
        return central

    @property
    def central(self) -> Central:
        """The first one."""
        return self.centrals[0]

    def execution_ids(self) -> list[int]:
        """All executions that a writer knows."""
        return [execution_id for sidecar in self.sidecars for execution_id in sidecar.execution_ids]

    def paused_batches(self) -> AbstractAsyncContextManager[PausedBatch]:
        return paused_batches(self.database.owner_url)

    def writing(self) -> AbstractAsyncContextManager[None]:
        return writing(self.writers)

    async def violations(self) -> list[str]:
        """The first ten violations once everything has been delivered."""
        for sidecar in self.sidecars:
            await finish(sidecar, self.history)
        async with connected(self.database.owner_url) as connection:
            seen = await observe(connection, self.execution_ids())
        return violations(self.history, seen)[:10]


@asynccontextmanager
async def scenario(
    database: Database,
    seed: int,
    *,
    create_share: float = 0.0,
    pause_point: PausePoint | None = None,
    central_settings: Mapping[str, str] = {},
) -> AsyncIterator[Scenario]:
    """`create_share` of the writers' calls create an execution, which needs central to be there."""
    async with connected(database.owner_url) as connection:
        await watch(connection)
        if pause_point is not None:
            await connection.execute(pause_point.sql())
    with open_folder() as folder, ForkServer() as fork_server:
        chance = random.Random(seed)
        it = Scenario(
            database, folder, fork_server, chance, create_share, central_settings=central_settings
        )
        try:
            await it.add_central()
            yield it
        finally:
            services: list[Sidecar | Central] = [*it.sidecars, *it.centrals]
            for service in services:
                await service.process.kill()
