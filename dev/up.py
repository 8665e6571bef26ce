"""`python -m dev up`: the whole system, left running until a signal ends it.

SIGTERM, SIGINT (Ctrl-C) and SIGHUP end all of it in order, with exit code 0, also while it is still
starting. A script passes --ready-file and waits for the file (dev.ready).
"""

import argparse
import asyncio
import contextlib
import os
from pathlib import Path

from dev.ready import Ready, ReadyFile
from dev.signals import Interrupted, run_until_signal
from dev.system import Options, System

BANNER = """\
Everything answers.

  sidecar   {sidecar}   ops {sidecar_ops}/status, /metrics
  central   {central}   ops {central_ops}/status, /metrics
  database  {database}

A token of the workflow's owner (more: python -m dev token --user-id N):

  TOKEN={token}

Calls to try:

  curl -H "Authorization: Bearer $TOKEN" \\
    '{sidecar}/v1/workflows/{workflow_id}/executions/latest?computing_unit_id={computing_unit_id}'
  curl -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
    {sidecar}/v1/executions -d '{{"workflow_id": {workflow_id}, "computing_unit_id": \
{computing_unit_id}, "environment_version": "try"}}'
  curl -X PATCH -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' \\
    -H 'Prefer: wait=5' -d '{{"status": "RUNNING"}}' {sidecar}/v1/executions/EXECUTION_ID

Ctrl-C ends all of it and leaves nothing behind."""


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
    with contextlib.suppress(Interrupted):
        asyncio.run(run_until_signal(serve(system, ready_file)))
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
        help="write FILE, as JSON, once everything answers, instead of printing a banner",
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


async def serve(system: System, ready_file: ReadyFile | None) -> None:
    """Keep the system up until cancelled; announce that it is up by the file or the banner."""
    async with system:
        if ready_file is None:
            print(banner(system.ready), flush=True)
            await asyncio.Event().wait()
            return
        ready_file.write(system.ready)
        try:
            await asyncio.Event().wait()
        finally:
            ready_file.remove()


def banner(ready: Ready) -> str:
    """What a person needs: addresses, a token, calls to try."""
    return BANNER.format(**ready, token=ready["users"]["owner"]["token"])
