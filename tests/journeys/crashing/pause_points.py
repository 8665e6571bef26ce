"""Points in the transaction of a batch where it can be paused, by a trigger and an advisory lock.

Central has no hook for this: while a test holds the lock, the trigger at the chosen point waits for
it, with the transaction open.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.databases import connected
from tests.integration.central.rows import until_blocking, until_waiting
from tests.journeys.crashing.recorder import Connection

_KEY = 7_070
_TRIGGERS = """
create function public.wait_at_pause_point() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(tg_argv[0]::int);
    return new;
end $$;
"""


class PausePoint(StrEnum):
    """Where a batch is paused. The value is the trigger's event."""

    BEFORE_APPLY = "before insert or update on texera_db.operator_port_executions"
    """The executions are locked; a row of theirs is about to be written."""
    BEFORE_COMMIT = "after update on cu_metadata.cursors"
    """Everything is written, including the stored response."""
    DURING_COMMIT = "commit"
    """The commit has begun and will succeed, even if central is killed."""

    def sql(self) -> str:
        """The function and the trigger, for the tables' owner to run."""
        head, event = "create trigger", self.value
        if self is PausePoint.DURING_COMMIT:
            head = "create constraint trigger"
            event = "after update on cu_metadata.cursors deferrable initially deferred"
        return (
            f"{_TRIGGERS} {head} wait_at_pause_point {event}"
            f" for each row execute function public.wait_at_pause_point({_KEY});"
        )


@dataclass
class PausedBatch:
    """While it exists, no batch gets past the pause point."""

    connection: Connection

    async def until_reached(self) -> None:
        """Wait until a batch is paused."""
        await until_blocking(self.connection)

    async def until_waiting(self, count: int) -> None:
        """Wait until so many sessions wait, the paused one included."""
        await until_waiting(self.connection, count)

    async def fail_commit(self, superuser_url: str) -> None:
        """Ends the paused session before its commit can succeed. Who waits for it pauses then."""
        async with connected(superuser_url) as superuser:
            await superuser.execute(
                "select pg_terminate_backend(pid) from pg_locks"
                " where locktype = 'advisory' and not granted"
            )
            await self.until_waiting(1)


@asynccontextmanager
async def paused_batches(database_url: str) -> AsyncIterator[PausedBatch]:
    """Batches are paused while the block runs, unless the database is stopped first."""
    async with connected(database_url) as connection:
        await connection.execute(f"select pg_advisory_lock({_KEY})")
        yield PausedBatch(connection)


@asynccontextmanager
async def commit_paused(
    database_url: str, send: Callable[[], Coroutine[Any, Any, None]]
) -> AsyncIterator[PausedBatch]:
    """What `send` commits waits inside Postgres, and its sender has given up."""
    async with paused_batches(database_url) as paused:
        sending = asyncio.create_task(send())
        await paused.until_reached()
        await sending
        yield paused
