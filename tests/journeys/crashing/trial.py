"""A trial: sidecars with their writers before one central, whatever happens to them, and a verdict.

async with trial(database, seed) as it:
    sidecar = await it.add_sidecar()
    async with it.writing():
        ...  # kill, stop, cut
    assert await it.complaints() == []
"""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.databases import Database, connected, open_folder
from tests.journeys.crashing.gates import ClosedGate, Gate, closed_gate
from tests.journeys.crashing.judge import complaints
from tests.journeys.crashing.ledger import Ledger
from tests.journeys.crashing.processes import Central, Sidecar
from tests.journeys.crashing.witness import observe, watch
from tests.journeys.crashing.writers import Writer, create_executions, finish, writing
from tests.journeys.crashing.zygote import Zygote

WRITERS, EXECUTIONS = 3, 3  # of each sidecar; every writer writes to every execution


@dataclass
class Trial:
    """What takes part. Whoever ends a process starts it again before the verdict."""

    database: Database
    folder: Path
    zygote: Zygote
    chance: random.Random
    create_share: float
    longest_pause_s: float = 0.004
    """Of a writer: without any, writing takes the time that all else needs."""
    ledger: Ledger = field(default_factory=Ledger)
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
        """A sidecar that runs, with executions; `forked` from the zygote, or by its command."""
        sidecar = Sidecar(
            self.folder / f"sidecar-{len(self.sidecars)}",
            central_url or self.central.url,
            self.zygote if forked else None,
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
                    self.ledger,
                    self.chance,
                    longest_pause_s=self.longest_pause_s,
                    create_share=self.create_share,
                )
            )
        return sidecar

    async def add_central(self) -> Central:
        """A further replica that runs."""
        central = Central(self.database.central_url, self.folder / f"central-{len(self.centrals)}")
        self.centrals.append(central)
        central.start()
        await central.until_ready()
        return central

    @property
    def central(self) -> Central:
        """The first one."""
        return self.centrals[0]

    def execution_ids(self) -> list[int]:
        """All executions that somebody was told of."""
        return [execution_id for sidecar in self.sidecars for execution_id in sidecar.execution_ids]

    def closed_gate(self) -> AbstractAsyncContextManager[ClosedGate]:
        return closed_gate(self.database.owner_url)

    def writing(self) -> AbstractAsyncContextManager[None]:
        return writing(self.writers)

    async def complaints(self) -> list[str]:
        """The first few things that are wrong, once everything has been delivered; or none."""
        for sidecar in self.sidecars:
            await finish(sidecar, self.ledger)
        async with connected(self.database.owner_url) as connection:
            seen = await observe(connection, self.execution_ids())
        return complaints(self.ledger, seen)[:10]


@asynccontextmanager
async def trial(
    database: Database, seed: int, *, create_share: float = 0.0, gate: Gate | None = None
) -> AsyncIterator[Trial]:
    """`create_share` of the writers' calls create an execution, which needs central to be there."""
    async with connected(database.owner_url) as connection:
        await watch(connection)
        if gate is not None:
            await connection.execute(gate.sql())
    with open_folder() as folder, Zygote() as zygote:
        it = Trial(database, folder, zygote, random.Random(seed), create_share)
        try:
            await it.add_central()
            yield it
        finally:
            services: list[Sidecar | Central] = [*it.sidecars, *it.centrals]
            for service in services:
                await service.process.kill()
