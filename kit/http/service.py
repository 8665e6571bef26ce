"""The process of a service: its event loop, its signals, its background tasks."""

import asyncio
import logging
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from kit.http.logs import fields

logger = logging.getLogger(__name__)

EXIT_CANNOT_CREATE = 73
"""A listener or a directory cannot be opened (EX_CANTCREAT of sysexits.h)."""
RESTART_BASE_S = 0.5
RESTART_LIMIT_S = 15.0
"""Less than a lease by far: its renewer is one of the tasks."""
STEADY_AFTER_S = 60.0
"""A task that has run for so long starts with the shortest backoff again."""


def run_service(serve: Coroutine[Any, Any, int]) -> int:
    """Runs until `serve` returns its exit code."""
    import uvloop  # here, so that settings are validated first and commands do without

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve)
    except OSError as error:
        sys.stderr.write(f"cannot start: {error}\n")
        return EXIT_CANNOT_CREATE


def stop_on_signals() -> asyncio.Event:
    """Is set by SIGTERM and SIGINT."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


@dataclass(slots=True)
class _Restarts:
    """Of one task. `last_error` and its time stay after the task works again."""

    count: int = 0
    last_error: str | None = None
    failed_at: float = 0.0


class Supervisor:
    """Runs a service's background tasks, and restarts one that an unforeseen error ends.

        running --returns--> done
         |   ^
         |   +--- backoff with full jitter ---+
         +------- any exception --------------+

    Neither the process nor its readiness depends on a task: calls are served without it. A failing
    one shows in the restart counter, in `/status`, and in one log line per distinct error.
    """

    def __init__(
        self,
        count_restart: Callable[[str, int], None],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`count_restart` adds to a task's counter; it is called with 0 when the task starts."""
        self._count_restart = count_restart
        self._monotonic = monotonic
        self._sleep = sleep
        self._uniform = uniform
        self._tasks: dict[str, _Restarts] = {}
        self._logged: set[tuple[str, type[BaseException], str, int]] = set()

    @asynccontextmanager
    async def supervise(
        self, name: str, run: Callable[[], Awaitable[Any]]
    ) -> AsyncIterator["asyncio.Task[None]"]:
        """Runs `run()` as a task for the block, again after each failure, until it returns."""
        self._tasks[name] = _Restarts()
        self._count_restart(name, 0)
        task = asyncio.create_task(self._run(name, run), name=name)
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait({task})

    def describe(self) -> dict[str, Any]:
        """The `tasks` of `/status`."""
        return {
            name: {
                "restarts": restarts.count,
                "last_error": restarts.last_error,
                "failed_s_ago": (
                    self._monotonic() - restarts.failed_at if restarts.count else None
                ),
            }
            for name, restarts in self._tasks.items()
        }

    async def _run(self, name: str, run: Callable[[], Awaitable[Any]]) -> None:
        failures = 0
        while True:
            started_at = self._monotonic()
            try:
                await run()
            except asyncio.CancelledError as error:
                current = asyncio.current_task()
                if current is None or current.cancelling():
                    raise
                self._on_failure(name, error)  # of something that the task waited for
            except Exception as error:
                self._on_failure(name, error)
            else:
                return
            if self._monotonic() - started_at >= STEADY_AFTER_S:
                failures = 0
            ceiling = min(RESTART_LIMIT_S, RESTART_BASE_S * 2 ** min(failures, 16))
            failures += 1
            await self._sleep(self._uniform(0, ceiling))

    def _on_failure(self, name: str, error: BaseException) -> None:
        restarts = self._tasks[name]
        restarts.count += 1
        restarts.last_error = f"{type(error).__name__}: {error}"
        restarts.failed_at = self._monotonic()
        self._count_restart(name, 1)
        # An error is the same if it is raised at the same line; its text may name ids.
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        file = traceback.tb_frame.f_code.co_filename if traceback is not None else ""
        line = traceback.tb_lineno if traceback is not None else 0
        if (key := (name, type(error), file, line)) not in self._logged:
            self._logged.add(key)
            logger.critical("task failed and restarts", exc_info=error, extra=fields(task=name))
