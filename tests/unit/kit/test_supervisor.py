"""A task that an unforeseen error ends is restarted; the process lives on."""

import asyncio
from collections.abc import Callable

import pytest

from kit.http.service import RESTART_LIMIT_S, STEADY_AFTER_S, Supervisor


class Clock:
    """Advanced by sleeps only, which take the whole jitter."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.waits_s: list[float] = []
        self.restarts: dict[str, int] = {}

    def supervisor(self) -> Supervisor:
        return Supervisor(
            self.count,
            monotonic=lambda: self.now_s,
            sleep=self.sleep,
            uniform=lambda low, high: high,
        )

    def count(self, name: str, more: int) -> None:
        self.restarts[name] = self.restarts.get(name, 0) + more

    async def sleep(self, seconds: float) -> None:
        self.waits_s.append(seconds)
        self.now_s += seconds


def failing(times: int, error: Callable[[int], BaseException]) -> Callable[[], object]:
    """A task that fails so often, then returns."""
    failures = iter(range(times))

    async def run() -> None:
        failure = next(failures, None)
        if failure is not None:
            raise error(failure)

    return run


async def run_to_end(supervisor: Supervisor, run: object) -> None:
    async with supervisor.supervise("job", run) as task:  # type: ignore[arg-type]
        await asyncio.wait_for(asyncio.shield(task), 10)


async def test_a_failed_task_restarts_with_a_capped_backoff_and_is_counted() -> None:
    clock = Clock()
    supervisor = clock.supervisor()

    await run_to_end(supervisor, failing(7, lambda n: OverflowError(f"{n}")))

    assert clock.waits_s == [0.5, 1.0, 2.0, 4.0, 8.0, RESTART_LIMIT_S, RESTART_LIMIT_S]
    assert clock.restarts == {"job": 7}
    assert supervisor.describe()["job"]["restarts"] == 7
    assert supervisor.describe()["job"]["last_error"] == "OverflowError: 6"


async def test_a_task_counts_zero_restarts_from_its_start() -> None:
    clock = Clock()
    await run_to_end(clock.supervisor(), failing(0, lambda n: OverflowError()))
    assert clock.restarts == {"job": 0}


async def test_an_error_is_logged_once_however_often_and_with_whatever_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await run_to_end(
        Clock().supervisor(),
        failing(20, lambda n: KeyError(n) if n % 2 else OverflowError(f"{n}")),
    )
    records = [record for record in caplog.records if record.message == "task failed and restarts"]
    assert [record.exc_info[0] for record in records if record.exc_info] == [
        OverflowError,
        KeyError,
    ]


async def test_the_backoff_is_short_again_after_a_steady_run() -> None:
    clock = Clock()
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs == 4:
            clock.now_s += STEADY_AFTER_S
        if runs <= 4:
            raise OverflowError

    await run_to_end(clock.supervisor(), run)
    assert clock.waits_s == [0.5, 1.0, 2.0, 0.5]


async def test_a_cancellation_from_within_restarts_the_task_and_one_from_outside_ends_it() -> None:
    clock = Clock()
    await run_to_end(clock.supervisor(), failing(1, lambda n: asyncio.CancelledError()))
    assert clock.restarts == {"job": 1}

    async with clock.supervisor().supervise("job", lambda: asyncio.sleep(3600)) as task:
        await asyncio.sleep(0)
    assert task.cancelled()
