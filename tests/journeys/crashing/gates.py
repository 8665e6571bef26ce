"""Places in the transaction of a batch where it can be held up, made of triggers and a lock.

Central itself has no hook and pays for none: while a test holds the gate's advisory lock, the
trigger that stands at the chosen place waits for it, with the transaction open.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from tests.databases import connected
from tests.integration.central.rows import until_blocking
from tests.journeys.crashing.witness import Connection

_KEY = 7_070
_TRIGGERS = """
create function public.wait_at_gate() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared(tg_argv[0]::int);
    return new;
end $$;
"""


class Gate(StrEnum):
    """Where a batch waits. The value is the trigger that makes it."""

    BEFORE_APPLY = "before insert or update on texera_db.operator_port_executions"
    """The executions are locked; a row of theirs is about to be written."""
    BEFORE_COMMIT = "after update on cu_metadata.cursors"
    """Everything is written, the answer too."""
    DURING_COMMIT = "commit"
    """It has begun and will succeed, whatever becomes of central."""

    def sql(self) -> str:
        """The function and the trigger, for the tables' owner to run."""
        head, event = "create trigger", self.value
        if self is Gate.DURING_COMMIT:
            head = "create constraint trigger"
            event = "after update on cu_metadata.cursors deferrable initially deferred"
        return (
            f"{_TRIGGERS} {head} wait_at_gate {event}"
            f" for each row execute function public.wait_at_gate({_KEY});"
        )


@dataclass
class ClosedGate:
    """No batch passes while it is closed."""

    connection: Connection

    async def holds_a_batch(self) -> None:
        """Wait until one has come and waits."""
        await until_blocking(self.connection)


@asynccontextmanager
async def closed_gate(database_url: str) -> AsyncIterator[ClosedGate]:
    """Closed while the block runs, unless the database ends first."""
    async with connected(database_url) as connection:
        await connection.execute(f"select pg_advisory_lock({_KEY})")
        yield ClosedGate(connection)
