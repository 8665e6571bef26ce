"""Group commit: tasks share a commit and nothing else; `on_commit` runs in commit order."""

import asyncio
import errno
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidecar.spool.writer import GroupCommitWriter


@dataclass
class OpenTable:
    """A table of numbers. Faults are raised once each, where they are named."""

    connection: sqlite3.Connection
    faults: list[Exception]
    on_load: Callable[[], None]

    def check_not_replaced(self) -> None:
        if self.faults:
            raise self.faults.pop(0)

    def load_index(self) -> None:
        self.on_load()

    def checkpoint(self) -> None:
        pass

    def close(self) -> None:
        self.connection.close()

    def abandon(self) -> None:
        self.connection.close()


@dataclass
class Bench:
    path: Path
    faults: list[Exception] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    suspected: list[bool] = field(default_factory=list)

    def open(self, *, is_suspect: bool) -> OpenTable:
        self.suspected.append(is_suspect)
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.execute("CREATE TABLE IF NOT EXISTS numbers (n INTEGER NOT NULL UNIQUE)")
        return OpenTable(connection, self.faults, lambda: self.events.append("opened"))


def add(number: int | None) -> Callable[[sqlite3.Connection], int | None]:
    def run(connection: sqlite3.Connection) -> int | None:
        connection.execute("INSERT INTO numbers VALUES (?)", (number,))
        return number

    return run


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [n for (n,) in connection.execute("SELECT n FROM numbers ORDER BY n")]


def raising(code: int) -> Callable[[sqlite3.Connection], None]:
    def run(connection: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("a fault of the file")
        error.sqlite_errorcode = code
        raise error

    return run


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "numbers.sqlite3")


@pytest.fixture
async def committer(bench: Bench, stack: AsyncExitStack) -> GroupCommitWriter:
    committer = GroupCommitWriter(bench.open)
    stack.push_async_callback(committer.close)
    return committer


@pytest.mark.parametrize(
    "faulty",
    [
        add(None),
        add(1),
        lambda connection: connection.execute("INSERT INTO nowhere VALUES (1)"),
        lambda connection: connection.execute("SELECT ?", (object(),)),
        lambda connection: dict[str, int]()["missing"],
    ],
    ids=["not null", "unique", "no such table", "not bindable", "no error of SQLite"],
)
async def test_failing_task_does_not_fail_its_group(
    committer: GroupCommitWriter, faulty: Callable[[sqlite3.Connection], object]
) -> None:
    before = committer.submit(add(1))
    failing = committer.submit(faulty)
    after = committer.submit(add(2))
    committer.start()  # all three are in its first group

    assert [await before, await after] == [1, 2]
    with pytest.raises((sqlite3.Error, KeyError)):
        await failing
    assert await committer.submit(numbers) == [1, 2]


@pytest.mark.parametrize("code", [sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL])
async def test_error_of_the_file_fails_the_group_and_keeps_nothing_of_it(
    committer: GroupCommitWriter, code: int
) -> None:
    group = [committer.submit(add(1)), committer.submit(raising(code)), committer.submit(add(2))]
    committer.start()

    responses = await asyncio.gather(*group, return_exceptions=True)

    assert all(isinstance(response, sqlite3.Error) for response in responses)
    assert await committer.submit(add(3)) == 3
    assert await committer.submit(numbers) == [3]


async def test_after_a_failed_sync_the_file_is_reopened_and_the_index_loaded_before_any_result(
    committer: GroupCommitWriter, bench: Bench
) -> None:
    committer.start()
    await committer.submit(add(1), lambda n: bench.events.append(f"added {n}"))
    with pytest.raises(sqlite3.Error):
        await committer.submit(raising(sqlite3.SQLITE_IOERR))

    await committer.submit(add(2), lambda n: bench.events.append(f"added {n}"))

    assert bench.events == ["opened", "added 1", "opened", "added 2"]
    assert bench.suspected == [False, False]


async def test_corrupt_file_is_recovered_and_the_group_runs_again(
    committer: GroupCommitWriter, bench: Bench
) -> None:
    damaged = [True]

    def once_damaged(connection: sqlite3.Connection) -> str:
        if damaged:
            damaged.pop()
            raising(sqlite3.SQLITE_CORRUPT)(connection)
        return "read"

    group = [committer.submit(add(1)), committer.submit(once_damaged)]
    committer.start()

    assert await asyncio.gather(*group) == [1, "read"]
    assert bench.suspected == [False, True]
    assert await committer.submit(numbers) == [1]


async def test_persistent_corruption_is_raised_after_one_retry(
    committer: GroupCommitWriter, bench: Bench
) -> None:
    committer.start()

    with pytest.raises(sqlite3.Error):
        await committer.submit(raising(sqlite3.SQLITE_CORRUPT))

    assert bench.suspected == [False, True]


async def test_commit_to_a_moved_file_is_not_acknowledged(
    committer: GroupCommitWriter, bench: Bench
) -> None:
    bench.faults.append(OSError(errno.ESTALE, "was moved"))
    committer.start()

    with pytest.raises(OSError, match="moved"):
        await committer.submit(add(1))

    assert await committer.submit(add(2)) == 2
    assert len(bench.suspected) == 2


async def test_on_commit_runs_for_a_cancelled_caller(
    committer: GroupCommitWriter, bench: Bench
) -> None:
    left = committer.submit(add(1), lambda n: bench.events.append(f"added {n}"))
    left.cancel()
    committer.start()

    await committer.submit(numbers)

    assert bench.events == ["opened", "added 1"]


async def test_failing_on_commit_is_raised_to_its_caller_only(
    committer: GroupCommitWriter,
) -> None:
    failing = committer.submit(add(1), lambda n: dict[int | None, int]()[n])
    other = committer.submit(add(2))
    committer.start()

    with pytest.raises(KeyError):
        await failing
    assert await other == 2


async def test_task_outside_a_transaction_runs_between_its_neighbours(
    committer: GroupCommitWriter,
) -> None:
    def is_in_transaction(connection: sqlite3.Connection) -> tuple[bool, list[int]]:
        return connection.in_transaction, numbers(connection)

    first = committer.submit(add(1))
    alone = committer.submit(is_in_transaction, outside_transaction=True)
    last = committer.submit(add(2))
    committer.start()

    assert [await first, await alone, await last] == [1, (False, [1]), 2]


async def test_close_commits_earlier_tasks_and_refuses_later_ones(
    committer: GroupCommitWriter,
) -> None:
    first, alone = committer.submit(add(1)), committer.submit(numbers, outside_transaction=True)
    committer.start()

    await committer.close()

    assert [await first, await alone] == [1, [1]]
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        await committer.submit(add(2))


@pytest.mark.parametrize(
    ("needs", "is_synced"),
    [
        ([True, False], True),
        ([False, True], True),
        ([False, False], False),
    ],
)
async def test_group_is_synced_if_any_of_its_tasks_needs_it(
    committer: GroupCommitWriter, needs: list[bool], is_synced: bool
) -> None:
    full, normal = 2, 1  # values of the pragma

    def mode(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA synchronous").fetchone()[0])

    group = [committer.submit(mode, needs_sync=needs_sync) for needs_sync in needs]
    committer.start()

    assert await asyncio.gather(*group) == [full if is_synced else normal] * 2
    assert (committer.commit_count, committer.sync_count) == (1, int(is_synced))
