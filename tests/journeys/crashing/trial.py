"""A trial: sidecars with their writers before one central, whatever happens to them, and a verdict.

async with trial(database, seed) as it:
    sidecar = await it.add_sidecar()
    async with it.writing():
        ...  # kill, stop, cut
    assert await it.complaints() == []
"""

import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.databases import Database, connected, open_folder
from tests.journeys.crashing.judge import complaints
from tests.journeys.crashing.ledger import Ledger
from tests.journeys.crashing.processes import Process, Sidecar, running_central
from tests.journeys.crashing.witness import observe, watch
from tests.journeys.crashing.writers import Writer, create_executions, finish, writing
from tests.journeys.crashing.zygote import Zygote

WRITERS, EXECUTIONS = 3, 3  # of each sidecar; every writer writes to every execution


@dataclass
class Trial:
    """What takes part. Whoever kills a sidecar starts it again before the verdict."""

    database: Database
    folder: Path
    central_url: str
    central: Process
    zygote: Zygote
    chance: random.Random
    longest_pause_s: float = 0.0
    ledger: Ledger = field(default_factory=Ledger)
    sidecars: list[Sidecar] = field(default_factory=list)
    writers: list[Writer] = field(default_factory=list)

    async def add_sidecar(self, *, forked: bool = True, **settings: str) -> Sidecar:
        """A sidecar that runs, with executions; `forked` from the zygote, or by its command."""
        folder = self.folder / f"sidecar-{len(self.sidecars)}"
        zygote = self.zygote if forked else None
        sidecar = Sidecar(folder, self.central_url, zygote, settings)
        sidecar.start()
        await sidecar.until_ready()
        sidecar.execution_ids = await create_executions(sidecar.url, EXECUTIONS)
        self.sidecars.append(sidecar)
        for _ in range(WRITERS):
            name = f"w{len(self.writers)}"
            self.writers.append(
                Writer(name, sidecar, self.ledger, self.chance, self.longest_pause_s)
            )
        return sidecar

    def writing(self) -> AbstractAsyncContextManager[None]:
        return writing(self.writers)

    async def complaints(self) -> list[str]:
        """The first few things that are wrong, once everything has been delivered; or none."""
        for sidecar in self.sidecars:
            await finish(sidecar.url, sidecar.execution_ids, self.ledger)
        ids = [execution_id for sidecar in self.sidecars for execution_id in sidecar.execution_ids]
        async with connected(self.database.owner_url) as connection:
            seen = await observe(connection, ids)
        return complaints(self.ledger, seen)[:10]


@asynccontextmanager
async def trial(
    database: Database, seed: int, *, longest_pause_s: float = 0.0
) -> AsyncIterator[Trial]:
    async with connected(database.owner_url) as connection:
        await watch(connection)
    with open_folder() as folder, Zygote() as zygote:
        async with running_central(database, folder / "central.log") as (central_url, central):
            it = Trial(
                database, folder, central_url, central, zygote, random.Random(seed), longest_pause_s
            )
            try:
                yield it
            finally:
                for sidecar in it.sidecars:
                    await sidecar.process.kill()
