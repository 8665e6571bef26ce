"""`python -m central serve` runs the service, `migrate` prepares its database.

`doctor` checks the environment, `bindings` lists and revokes what sidecars may write to,
`debris` lists and closes open runs that nobody closes, `retention` purges old rows of ours.
"""

import argparse
import asyncio
import os
import sys

from central import __version__
from central.cli import bindings, doctor, orphans, retention
from central.migrations import MigrationFailed
from central.settings import read_migrate_settings, read_settings
from kit.http import logs
from kit.http.settings import EXIT_USAGE, SettingsError

EXIT_FAILED = 1
EXIT_CANNOT_CREATE = 73
"""A listener cannot be had (EX_CANTCREAT)."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="central", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the service (settings: CENTRAL_* of the environment)")
    migrate = commands.add_parser(
        "migrate", help="create or update schema cu_metadata and the service's role"
    )
    migrate.add_argument(
        "--with-indexes",
        action="store_true",
        help="also create the indexes that Texera's tables lack, beside the running system",
    )
    doctor.add_parser(commands)
    bindings.add_parser(commands)
    orphans.add_parser(commands)
    retention.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        match options.command:
            case "serve":
                return _serve()
            case "migrate":
                return _migrate(options.with_indexes)
            case "doctor":
                return doctor.run(options, os.environ)
            case "debris":
                return orphans.run(options, os.environ)
            case "retention":
                return retention.run(options, os.environ)
            case _:
                return bindings.run(options, os.environ)
    except SettingsError as error:
        for fault in error.errors:
            print(fault, file=sys.stderr)
        return EXIT_USAGE


def _serve() -> int:
    settings = read_settings(os.environ)
    logs.configure(settings.log_level)
    import uvloop  # here, so that a wrong setting is told at once

    from central.lifecycle import serve

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve(settings))
    except OSError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return EXIT_CANNOT_CREATE


def _migrate(with_indexes: bool) -> int:
    settings = read_migrate_settings(os.environ)
    from central.migrations.indexes import create_indexes
    from central.migrations.runner import migrate

    try:
        asyncio.run(migrate(settings, print))
        if with_indexes:
            asyncio.run(create_indexes(settings.owner_url, print))
    except MigrationFailed as error:
        print(f"migration failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
