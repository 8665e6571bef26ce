"""`python -m sidecar serve`."""

import argparse
import asyncio
import os
import sys

from sidecar import __version__
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
    parser.parse_args(arguments)
    return _serve()


def _serve() -> int:
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)
        return EXIT_USAGE
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
