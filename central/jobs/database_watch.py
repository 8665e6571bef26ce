"""Whether the database serves, as `GET /v1/health` reports it to sidecars that probe.

A sidecar shows values by lapsed grants while central cannot serve, so callers must have no part
in the decision: a failed call only makes the watch ask, and its own query decides. While no call
fails it asks nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from central.store.database import Database
from kit.http.problems import Problem

PERIOD_S = 1.0
"""Between two queries while calls fail."""


class DatabaseWatch:
    def __init__(
        self, database: Database, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep
    ) -> None:
        self._database = database
        self._sleep = sleep
        self.is_available = True

    async def run(self) -> None:
        while True:
            await self._database.is_suspect.wait()
            try:
                await self._database.ping()
            except Problem:
                self.is_available = False  # and `is_suspect` stays set
            else:
                self.is_available = True
                self._database.is_suspect.clear()
            await self._sleep(PERIOD_S)
