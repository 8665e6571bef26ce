"""`central serve` runs the service, `migrate` prepares its database.

`status` shows this replica and the fleet, `bindings` lists and revokes bindings of sidecars,
`sources` revokes their keys, `closures` and `refusals` list what central closed and refused,
`orphans` lists and closes stale executions, `audit` lists and verifies what was done, `retention`
purges old rows of ours, `doctor` checks the environment, `log-level` changes the level of a
running replica.
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
    closures,
    doctor,
    join_sources,
    migrate,
    orphans,
    refusals,
    retention,
    sources,
    status,
)
from central.settings import read_settings
from kit.http import logs
from kit.http.ops_client import add_log_level_parser, run_log_level
from kit.http.problems import Problem
from kit.http.service import run_service
from kit.http.settings import EXIT_USAGE, SettingsError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="central", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the service (settings: CENTRAL_* of the environment)")
    for command in (
        status,
        bindings,
        sources,
        closures,
        refusals,
        orphans,
        audit,
        retention,
        doctor,
        migrate,
    ):
        command.add_parser(commands)
    add_log_level_parser(commands)
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


def _change_log_level(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    return run_log_level("central", read_settings(variables).ops_listen, options.level)


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
        "closures": closures.run,
        "refusals": refusals.run,
        "status": status.run,
        "log-level": _change_log_level,
    }
)


if __name__ == "__main__":
    sys.exit(main())
