"""Ctrl-C and SIGTERM in a command that has something to end in order."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from dev.problems import DevProblem

EXIT_INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

T = TypeVar("T")


class Interrupted(DevProblem):
    """A signal ended the command. Everything that it had started has ended."""


async def run_until_signal(work: Coroutine[Any, Any, T]) -> T:
    """The work's result. The first signal cancels the work; `Interrupted` once it has ended.

    Later signals are ignored: clean-up is never cut short.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    is_interrupted = False

    def interrupt() -> None:
        nonlocal is_interrupted
        if not is_interrupted:
            is_interrupted = True
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupt)
    try:
        return await task
    except asyncio.CancelledError:
        if is_interrupted:
            raise Interrupted("Interrupted.") from None
        raise
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
