"""`central refusals ls`: refused calls and entries, the newest first.

Reads the database. What is beyond the caps of the log of refusals is one row per hour, user and
problem, with its count.
"""

import argparse
from collections.abc import Mapping
from typing import Any

from central.cli import parse_id, parse_period_s, print_rows, run_with_database
from central.settings import read_database_settings
from central.store.refusals import ListedRefusal, RefusalFilter, RefusalLog


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("refusals", help="list refused calls and entries")
    actions = parser.add_subparsers(dest="action", required=True)
    ls = actions.add_parser("ls", help="list them, the newest first")
    for name in ("user", "unit", "execution"):
        ls.add_argument(f"--{name}", type=parse_id, metavar="ID")
    ls.add_argument("--since", type=parse_period_s, metavar="TIME", help="such as 30m, 2h or 7d")
    ls.add_argument("--limit", type=parse_id, default=1000)
    ls.add_argument("--json", action="store_true", help="for scripts")


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError` or `DatabaseUnavailable`."""
    filters = RefusalFilter(options.user, options.execution, options.unit, options.since)
    found = run_with_database(
        read_database_settings(variables),
        lambda database, metrics: RefusalLog(database, metrics).find(filters, options.limit),
    )
    print_rows("refusals", ListedRefusal, found, as_json=options.json)
    return 0
