"""`python -m sidecar serve`; `doctor` checks where it runs, `spool` looks into what waits."""

import argparse
import asyncio
import os
import sys

from sidecar import __version__
from sidecar.commands import doctor, spool
from sidecar.kit import logs
from sidecar.kit.environment import EXIT_USAGE, SettingsError
from sidecar.settings import Settings

EXIT_CANNOT_CREATE = 73
"""A listener or the spool's directory cannot be had (EX_CANTCREAT)."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sidecar", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the sidecar (settings: SIDECAR_* of the environment)")
    doctor.add_parser(commands)
    spool.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        if options.command == "serve":
            return _serve()
        if options.command == "spool":
            return spool.run(options, os.environ)
        return doctor.run(options, os.environ)
    except SettingsError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        return EXIT_USAGE


def _serve() -> int:
    settings = Settings.from_environment(os.environ)
    logs.configure(settings.log_level)
    import uvloop  # here, so that a wrong setting is told at once

    from sidecar.lifecycle import serve

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(settings))
    except OSError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return EXIT_CANNOT_CREATE


if __name__ == "__main__":
    sys.exit(main())
