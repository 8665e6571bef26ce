"""The connection pool, and the mapping of the database's errors to problems.

The pool is opened by the first call that needs it: the service starts and is ready while the
database is down, and calls get `database-unavailable` until it is back. Connections carry no
session state (no SET, session-level lock or LISTEN): they may come from PgBouncer in transaction
mode, and no reset query is sent when one is released, which saves a round trip per call.

What is done about each class of errors is in `store/failures.py`. Only transactions that failed
for concurrency are retried here (`run`); the calling sidecar does the rest.
"""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qs, urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from central.metrics import Metrics
from central.problems import DatabaseUnavailable
from central.settings import DatabaseSettings
from central.store.failures import Policy, policy_of
from central.store.queries import Query, load, statement_names

T = TypeVar("T")
Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Sleep: TypeAlias = Callable[[float], Awaitable[None]]

CONNECT_TIMEOUT_S = 5.0  # longer than any healthy connect, shorter than a caller waits
ACQUIRE_TIMEOUT_S = 5.0
MAX_ATTEMPTS = 3
CHECK_CONSTRAINTS_AT_ONCE = Query("check_constraints_at_once", "set constraints all immediate")
RETRY_AFTER_S = 2.0  # a failover takes seconds; sidecars back off from here
MAX_NAME_LENGTH = 63  # Postgres cuts a longer one, with a notice
NOT_MIGRATED_RETRY_AFTER_S = 30.0  # an operator has to run `migrate`

CONNECTION_ERRORS = (OSError, TimeoutError, asyncpg.InternalClientError)
"""`InternalClientError`: a session that the server is closing."""


def session_settings(url: str, name: str) -> dict[str, str]:
    """`application_name`, by which `pg_stat_activity` and the server's log name this process: with
    its host. A name in the URL stays."""
    if "application_name" in parse_qs(urlsplit(url).query):
        return {}
    return {"application_name": f"{name} {socket.gethostname()}"[:MAX_NAME_LENGTH]}


class StatelessConnection(asyncpg.Connection):
    def get_reset_query(self) -> str:
        return ""


class Transaction:
    """An open transaction. Invalid after its `async with` block."""

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
        """The number of rows that the statement changed."""
        with self._metrics.statement(query.name):
            tag = await self._connection.execute(query.text, *args)
        _, _, count = tag.rpartition(" ")
        return int(count) if count.isdigit() else 0

    async def check_constraints_at_once(self) -> None:
        """From now on. A deferred constraint fails the commit, where no savepoint isolates it."""
        await self.execute(CHECK_CONSTRAINTS_AT_ONCE)

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Registers metrics and logs that are only right once the transaction has committed."""
        self._after_commit.append(callback)

    def on_committed(self) -> None:
        for callback in self._after_commit:
            callback()

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """An error inside rolls back to here; the transaction goes on."""
        async with self._connection.transaction():
            yield


class Database:
    """Promise: a result, a `DatabaseUnavailable`, or the error of a statement.

    The latter is a `StatementError`: of `ROW_POLICIES` if a row fails, which the caller can
    isolate; of `Policy.RETRY` from a method other than `run`; else a bug.
    """

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
        self._queries = load("database")
        for name in (*statement_names(), CHECK_CONSTRAINTS_AT_ONCE.name):
            metrics.statement_seconds.add(name)
        self.is_suspect = asyncio.Event()
        """Set by each call that the database could not serve (`jobs.database_watch`)."""

    async def ping(self) -> None:
        """Raises `DatabaseUnavailable`."""
        await self.read(self._queries["ping"])

    async def read(self, query: Query, *args: Any) -> list[asyncpg.Record]:
        """The rows of one read-only statement."""
        with self._metrics.statement(query.name):
            async with self._acquire() as connection:
                if self._settings.statement_cache_size == 0:
                    # Without named statements, parse and execute must reach the same server, which
                    # an old PgBouncer guarantees only within a transaction.
                    async with connection.transaction(readonly=True):
                        return await connection.fetch(query.text, *args)
                return await connection.fetch(query.text, *args)

    async def execute_returning(self, query: Query, *args: Any) -> list[asyncpg.Record]:
        """The rows of one statement that is a transaction by itself. It is not retried."""
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
        outcome, began_at = "rolled_back", self._metrics.clock()
        try:
            async with self._acquire() as connection:
                async with connection.transaction(isolation="read_committed"):
                    transaction = Transaction(connection, self._metrics)
                    yield transaction
                outcome = "committed"
                transaction.on_committed()
        finally:
            self._metrics.transactions(outcome)
            self._metrics.transaction_seconds.observe(self._metrics.clock() - began_at)

    async def run(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        retry_on: tuple[type[Exception], ...] = (),
    ) -> T:
        """The result of `work` in a transaction, retried on `retry_on` and by `Policy.RETRY`."""
        errors: tuple[type[Exception], ...] = (asyncpg.PostgresError, *retry_on)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                async with self.transaction() as transaction:
                    return await work(transaction)
            except errors as error:
                if policy_of(error) is not Policy.RETRY and not isinstance(error, retry_on):
                    raise
                if attempt == MAX_ATTEMPTS:
                    raise DatabaseUnavailable(
                        "the call met too many concurrent changes of the same rows",
                        retry_after_s=RETRY_AFTER_S,
                    ) from error
            self._metrics.transactions("retried")
            await self._sleep(0.02 * attempt * self._jitter())
        raise AssertionError("the loop returns or raises")

    async def close(self) -> None:
        """Waits for calls in progress, at most as long as one statement may take."""
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    def describe(self) -> dict[str, Any]:
        """The database section of `/status`."""
        if self._pool is None:
            return {"pool": "not opened"}
        size, idle = self._pool.get_size(), self._pool.get_idle_size()
        return {"pool": "open", "connections": size, "idle": idle}

    def connections(self) -> tuple[int, int]:
        """Open connections, and how many of them are in use."""
        if self._pool is None:
            return 0, 0
        size = self._pool.get_size()
        return size, size - self._pool.get_idle_size()

    async def open(self) -> None:
        """Opens the pool before the first call does. Raises `DatabaseUnavailable`."""
        async with self._map_errors():
            await self._open_pool()

    @asynccontextmanager
    async def _acquire(self) -> AsyncIterator[Connection]:
        async with self._map_errors():
            pool = self._pool or await self._open_pool()
            began_at = self._metrics.clock()
            async with pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                self._metrics.pool_wait_seconds.observe(self._metrics.clock() - began_at)
                yield connection

    async def _open_pool(self) -> "asyncpg.Pool[asyncpg.Record]":
        async with self._opening:
            if self._pool is not None:
                return self._pool
            if self._clock() < self._closed_until:
                # Callers that waited for a failed attempt do not each make their own.
                raise OSError("the last attempt to connect failed")
            try:
                pool = await asyncpg.create_pool(
                    self._settings.url,
                    min_size=self._settings.pool_min_size,
                    max_size=self._settings.pool_max_size,
                    statement_cache_size=self._settings.statement_cache_size,
                    connection_class=StatelessConnection,
                    timeout=CONNECT_TIMEOUT_S,
                    command_timeout=self._settings.timeout_s,
                    server_settings=session_settings(
                        self._settings.url, self._settings.application_name
                    ),
                )
            except BaseException:
                self._closed_until = self._clock() + 0.5
                raise
            self._pool = pool
            return pool

    @asynccontextmanager
    async def _map_errors(self) -> AsyncIterator[None]:
        try:
            yield
        except asyncpg.PostgresError as error:
            match policy_of(error):
                case Policy.UNPREPARED:
                    self._metrics.database_error("unprepared")
                    raise DatabaseUnavailable(
                        "the database is not prepared for this version:"
                        f" run `central migrate` ({error})",
                        retry_after_s=NOT_MIGRATED_RETRY_AFTER_S,
                    ) from error
                case Policy.UNAVAILABLE:
                    raise self._unavailable(error) from error
                case _:
                    raise
        except CONNECTION_ERRORS as error:
            raise self._unavailable(error) from error
        except asyncpg.InterfaceError as error:
            # asyncpg has one class for closed connections and for wrong arguments.
            if "clos" not in str(error):
                raise
            raise self._unavailable(error) from error

    def _unavailable(self, error: BaseException) -> DatabaseUnavailable:
        self._metrics.database_error("unavailable")
        self.is_suspect.set()
        reason = type(error).__name__  # its text may contain host names and roles
        return DatabaseUnavailable(
            f"the database did not respond ({reason}); the call may be retried",
            retry_after_s=RETRY_AFTER_S,
        )
