"""The connection pool, and the one place where the database's failures become ours.

The pool is opened by the first call that needs it, so the service starts and is ready while
the database is down; calls answer `database-unavailable` until it is back. Connections carry
no session state (no SET, no session-level lock, no LISTEN): they may come from PgBouncer in
transaction mode, and no reset query is sent when one is given back, which saves a round trip
per call.

A transaction that lost a race (deadlock, serialization, a statement planned for yesterday's
schema) is run again by `run`; nothing else is retried here, the caller's sidecar does that.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from central.metrics import Metrics
from central.problems import DatabaseUnavailable
from central.settings import DatabaseSettings
from central.store.queries import Query

T = TypeVar("T")
Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Sleep: TypeAlias = Callable[[float], Awaitable[None]]

CONNECT_TIMEOUT_S = 5.0  # longer than any healthy connect, shorter than a caller waits
ACQUIRE_TIMEOUT_S = 5.0
MAX_ATTEMPTS = 3
RETRY_AFTER_S = 2.0  # a failover takes seconds; sidecars back off from here
UNPREPARED_RETRY_AFTER_S = 30.0  # someone has to run `migrate`

RETRYABLE_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)
UNPREPARED = (
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.InsufficientPrivilegeError,
)
UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # a session the server has just ended, its farewell half read
    asyncpg.OperatorInterventionError,  # shutdown, crash, a statement over its timeout
    asyncpg.InsufficientResourcesError,  # too many connections, disk full
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,  # a standby, until the new primary is found
)


class StatelessConnection(asyncpg.Connection):
    def get_reset_query(self) -> str:
        return ""


class Transaction:
    """An open transaction. Not to be kept after its `async with` block."""

    def __init__(self, connection: Connection, metrics: Metrics) -> None:
        self._connection = connection
        self._metrics = metrics
        self._after_commit: list[Callable[[], None]] = []

    async def fetch(self, query: Query, *args: Any) -> list[asyncpg.Record]:
        with self._metrics.statement(query.name):
            return await self._connection.fetch(query.text, *args)

    async def fetch_row(self, query: Query, *args: Any) -> asyncpg.Record | None:
        with self._metrics.statement(query.name):
            return await self._connection.fetchrow(query.text, *args)

    async def execute(self, query: Query, *args: Any) -> int:
        """The number of rows the statement touched."""
        with self._metrics.statement(query.name):
            tag = await self._connection.execute(query.text, *args)
        _, _, count = tag.rpartition(" ")
        return int(count) if count.isdigit() else 0

    def after_commit(self, tell: Callable[[], None]) -> None:
        """What is said of the work (metrics, logs) once it is sure that it stays."""
        self._after_commit.append(tell)

    def committed(self) -> None:
        """The database has committed: whatever waited for it is said."""
        for tell in self._after_commit:
            tell()

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """What fails inside is undone alone; the transaction goes on."""
        async with self._connection.transaction():
            yield


class Database:
    """Promise: an answer, one of our problems, or an error that is a bug of ours."""

    def __init__(
        self,
        settings: DatabaseSettings,
        metrics: Metrics,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()
        self._closed_until = -1.0

    async def read(self, query: Query, *args: Any) -> list[asyncpg.Record]:
        """The rows of one statement that changes nothing."""
        with self._metrics.statement(query.name):
            async with self._acquire() as connection:
                if self._settings.statement_cache_size == 0:
                    # Without named statements, parse and execute must reach one server:
                    # an old PgBouncer keeps it only for the length of a transaction.
                    async with connection.transaction(readonly=True):
                        return await connection.fetch(query.text, *args)
                return await connection.fetch(query.text, *args)

    async def change(self, query: Query, *args: Any) -> list[asyncpg.Record]:
        """The rows of one statement that is a transaction by itself. Not run again after a race."""
        outcome = "rolled_back"
        try:
            with self._metrics.statement(query.name):
                async with self._acquire() as connection:
                    if self._settings.statement_cache_size == 0:  # as in `read`
                        async with connection.transaction():
                            rows = await connection.fetch(query.text, *args)
                    else:
                        rows = await connection.fetch(query.text, *args)
            outcome = "committed"
            return rows
        finally:
            self._metrics.transactions(outcome)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Commits when the block ends, rolls back when it raises."""
        outcome = "rolled_back"
        try:
            async with self._acquire() as connection:
                async with connection.transaction(isolation="read_committed"):
                    transaction = Transaction(connection, self._metrics)
                    yield transaction
                outcome = "committed"
                transaction.committed()
        finally:
            self._metrics.transactions(outcome)

    async def run(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        lost_races: tuple[type[Exception], ...] = (),
    ) -> T:
        """What `work` returns, in one transaction, again in a new one after a lost race.

        `lost_races` names further errors that mean one, for this work only.
        """
        races = RETRYABLE_ERRORS + lost_races
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                async with self.transaction() as transaction:
                    return await work(transaction)
            except races as error:
                if attempt == MAX_ATTEMPTS:
                    raise DatabaseUnavailable(
                        "the call lost too many races for the same rows",
                        retry_after_s=RETRY_AFTER_S,
                    ) from error
            self._metrics.transactions("retried")
            await self._sleep(0.02 * attempt * self._jitter())
        raise AssertionError("the loop returns or raises")

    async def close(self) -> None:
        """Waits for calls under way, at most as long as one statement may take."""
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    def describe(self) -> dict[str, Any]:
        """What `/status` says of the database."""
        if self._pool is None:
            return {"pool": "not opened"}
        size, idle = self._pool.get_size(), self._pool.get_idle_size()
        return {"pool": "open", "connections": size, "idle": idle}

    def connections(self) -> tuple[int, int]:
        """Connections open, and those of them in use."""
        if self._pool is None:
            return 0, 0
        size = self._pool.get_size()
        return size, size - self._pool.get_idle_size()

    async def open(self) -> None:
        """Opens the pool. Raises `DatabaseUnavailable`; calls do it too when they have to."""
        async with self._translated():
            await self._open_pool()

    @asynccontextmanager
    async def _acquire(self) -> AsyncIterator[Connection]:
        async with self._translated():
            pool = self._pool or await self._open_pool()
            async with pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                yield connection

    async def _open_pool(self) -> "asyncpg.Pool[asyncpg.Record]":
        async with self._opening:
            if self._pool is not None:
                return self._pool
            if self._clock() < self._closed_until:
                # Callers that queued behind a failed attempt need not each make their own.
                raise OSError("the last attempt to connect has just failed")
            try:
                pool = await asyncpg.create_pool(
                    self._settings.url,
                    min_size=self._settings.pool_min_size,
                    max_size=self._settings.pool_max_size,
                    statement_cache_size=self._settings.statement_cache_size,
                    connection_class=StatelessConnection,
                    timeout=CONNECT_TIMEOUT_S,
                    command_timeout=self._settings.timeout_s,
                )
            except BaseException:
                self._closed_until = self._clock() + 0.5
                raise
            self._pool = pool
            return pool

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except UNPREPARED as error:
            self._metrics.database_error("unprepared")
            raise DatabaseUnavailable(
                "the database is not prepared for this version: run `python -m central migrate`"
                f" ({error})",
                retry_after_s=UNPREPARED_RETRY_AFTER_S,
            ) from error
        except UNAVAILABLE as error:
            self._metrics.database_error("unavailable")
            raise _unavailable(error) from error
        except asyncpg.InterfaceError as error:
            # asyncpg has one class for "the connection is closed" and for wrong arguments.
            if "clos" not in str(error):
                raise
            self._metrics.database_error("unavailable")
            raise _unavailable(error) from error


def _unavailable(error: BaseException) -> DatabaseUnavailable:
    reason = type(error).__name__  # its text may hold host names and roles
    return DatabaseUnavailable(
        f"the database did not answer ({reason}); the call may be repeated",
        retry_after_s=RETRY_AFTER_S,
    )
