"""The process of a service: its event loop, its signals, its background tasks."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

logger = logging.getLogger(__name__)

EXIT_CANNOT_CREATE = 73
"""A listener or a directory cannot be opened (EX_CANTCREAT of sysexits.h)."""


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


@asynccontextmanager
async def background(work: Coroutine[Any, Any, Any]) -> AsyncIterator["asyncio.Task[Any]"]:
    """Runs `work` as a task for the block. A failure of it ends the process: a service that lacks
    one of its loops must not look healthy, and the pod restarts it."""
    task = asyncio.create_task(work)
    task.add_done_callback(_on_task_failure)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


def _on_task_failure(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical("background task failed", exc_info=task.exception())
        signal.raise_signal(signal.SIGTERM)
