"""An event loop whose time is a number: when nothing is ready, it jumps to the next timer.

A day of waiting costs nothing, and nothing in a run depends on this machine's speed. Callbacks
that are ready run in asyncio's own order, which is a promise of asyncio that the product may rely
on (a reopened file is loaded before the results of its first commit, `spool/writer.py`). What the
seed decides is when each commit, read, request and response is done, and with that the order in
which they are.

Work for other threads (`run_in_executor`) is done by the loop itself, a little later: a read runs
between two other steps, at a time that the seed chose.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

CLOCK_RESOLUTION_S = 1e-6
READ_S = 0.002


class Deadlock(AssertionError):
    """Nothing is ready and no timer is set: the run would wait for ever."""


class Killed(BaseException):
    """The process that ran this is gone. No handler of the product catches it."""


class VirtualLoop(asyncio.BaseEventLoop):
    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.now_s = 0.0
        self.failures: list[str] = []
        """What no part of the program has caught."""
        self._chance = chance
        # What `BaseEventLoop` expects of its subclasses; typeshed does not know it.
        self._selector = self
        self._clock_resolution = CLOCK_RESOLUTION_S
        self.set_exception_handler(self._record_failure)

    def time(self) -> float:
        return self.now_s

    def jump(self, seconds: float) -> None:
        """The machine was suspended: all timers of that time are due at once."""
        self.now_s += seconds

    def select(self, timeout: float | None) -> list[object]:
        """Called by asyncio where it would wait for sockets."""
        if timeout is None:
            raise Deadlock
        self.now_s += timeout
        return []

    def _process_events(self, events: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        """Called by `call_soon_threadsafe`; there is one thread, and it is awake."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, call: Callable[..., Any], *arguments: Any
    ) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self.create_future()
        self.call_later(self._chance.uniform(0, READ_S), self._run_now, future, call, arguments)
        return future

    def _run_now(
        self, future: "asyncio.Future[Any]", call: Callable[..., Any], arguments: tuple[Any, ...]
    ) -> None:
        try:
            result = call(*arguments)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)

    def _record_failure(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), Killed):
            self.failures.append(f"{context['message']}: {context.get('exception')!r}")


class InlineExecutor:
    """In place of the reader's thread, where the writer waits for it: at once, in this thread."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def submit(self, call: Callable[..., Any]) -> "InlineExecutor":
        self._results = deque([call()])
        return self

    def result(self) -> Any:
        return self._results.popleft()

    def shutdown(self) -> None:
        pass
