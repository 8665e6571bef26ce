"""`python -m dev up`: the whole system, left running until it is told to end.

SIGTERM, SIGINT (Ctrl-C) and SIGHUP end all of it in order, with exit code 0, also while it is still
starting. A script gives --ready-file and waits for the file (dev.ready).
"""

import argparse
import asyncio
import contextlib
import os
import signal
from pathlib import Path

from dev.greeting import greeting
from dev.ready import ReadyFile
from dev.system import Options, System

__all__ = ["Options", "System", "main"]


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    ready_file = None if options.ready_file is None else ReadyFile(options.ready_file)
    if ready_file is not None:
        ready_file.prepare()
    system = System(
        Options(
            port_base=options.port_base,
            rtt_ms=options.rtt_ms,
            database_url=options.database_url,
            settings=dict(options.set),
        )
    )
    asyncio.run(run(system, ready_file))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m dev up",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--ready-file",
        type=Path,
        metavar="FILE",
        help="write FILE, as JSON, once everything answers, instead of greeting",
    )
    parser.add_argument(
        "--port-base",
        type=port_base,
        default=Options.port_base,
        metavar="N",
        help="the sidecar's port; the others follow it (default: %(default)s)",
    )
    parser.add_argument(
        "--rtt-ms",
        type=round_trip,
        default=0.0,
        metavar="N",
        help="add this round trip between sidecar and central, and central and Postgres",
    )
    parser.add_argument(
        "--database-url",
        default=os.environ.get("DEV_DATABASE_URL") or None,
        metavar="URL",
        help="an empty Postgres database of your own, as its owner (also: DEV_DATABASE_URL)",
    )
    parser.add_argument(
        "--set",
        type=setting,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one more setting for the service that NAME begins with; may be repeated",
    )
    return parser


def port_base(text: str) -> int:
    """A port that leaves room for the ones that follow it."""
    port = int(text)
    if not 1024 <= port <= 65_500:
        raise argparse.ArgumentTypeError("expected 1024 to 65500")
    return port


def round_trip(text: str) -> float:
    """Milliseconds, none or more."""
    rtt_ms = float(text)
    if not 0 <= rtt_ms <= 10_000:
        raise argparse.ArgumentTypeError("expected 0 to 10000 milliseconds")
    return rtt_ms


def setting(text: str) -> tuple[str, str]:
    """A setting of one of the services."""
    name, equals, value = text.partition("=")
    if not equals or not name.startswith(("SIDECAR_", "CENTRAL_")):
        raise argparse.ArgumentTypeError("expected SIDECAR_...=VALUE or CENTRAL_...=VALUE")
    return name, value


async def run(system: System, ready_file: ReadyFile | None) -> None:
    """Keep the system up until a signal asks for its end."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def end() -> None:
        for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(signal_number, lambda: None)  # once is enough
        task.cancel()

    for signal_number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(signal_number, end)
    with contextlib.suppress(asyncio.CancelledError):
        async with system:
            await stay(system, ready_file)


async def stay(system: System, ready_file: ReadyFile | None) -> None:
    """Say that the system is up, one way or the other, until cancelled."""
    if ready_file is None:
        print(greeting(system.ready), flush=True)
        await asyncio.Event().wait()
        return
    ready_file.write(system.ready)
    try:
        await asyncio.Event().wait()
    finally:
        ready_file.remove()
