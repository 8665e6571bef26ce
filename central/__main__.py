"""`central serve` runs the service, `migrate` prepares its database.

`doctor` checks the environment, `bindings` lists and revokes bindings of sidecars, `sources`
revokes their keys, `orphans` lists and closes stale executions, `retention` purges old rows of
ours, `audit` lists and verifies what was done.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

from central import __version__
from central.cli import (
    EXIT_UNAVAILABLE,
    audit,
    bindings,
    doctor,
    join_sources,
    migrate,
    orphans,
    retention,
    sources,
)
from central.settings import read_settings
from kit.http import logs
from kit.http.problems import Problem
from kit.http.service import run_service
from kit.http.settings import EXIT_USAGE, SettingsError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="central", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the service (settings: CENTRAL_* of the environment)")
    for command in (migrate, doctor, bindings, sources, orphans, retention, audit):
        command.add_parser(commands)
    options = parser.parse_args(join_sources(sys.argv[1:] if arguments is None else arguments))
    try:
        return _COMMANDS[options.command](options, os.environ)
    except SettingsError as error:
        print("\n".join(error.errors), file=sys.stderr)
        return EXIT_USAGE
    except Problem as problem:
        print(f"{problem.slug}: {problem.detail}", file=sys.stderr)
        return EXIT_UNAVAILABLE


def _serve(_: argparse.Namespace, variables: Mapping[str, str]) -> int:
    settings = read_settings(variables)
    logs.configure(settings.log_level)
    from central.lifecycle import serve

    return run_service(serve(settings))


_COMMANDS: Mapping[str, Callable[[argparse.Namespace, Mapping[str, str]], int]] = MappingProxyType(
    {
        "serve": _serve,
        "migrate": migrate.run,
        "doctor": doctor.run,
        "bindings": bindings.run,
        "sources": sources.run,
        "orphans": orphans.run,
        "retention": retention.run,
        "audit": audit.run,
    }
)


if __name__ == "__main__":
    sys.exit(main())
