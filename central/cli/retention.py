"""`central retention report|purge`: our own rows by kind, their age and retention."""

import argparse
from collections.abc import Mapping
from typing import Any

import msgspec

from central.cli import run_with_database
from central.settings import read_retention_settings
from central.store.retention import RetainedRows, Retention
from kit.tables import print_table

DAY_S = 86_400


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("retention", help="report or purge old rows of cu_metadata")
    actions = parser.add_subparsers(dest="action", required=True)
    report = actions.add_parser("report", help="rows by kind, the oldest, the retention")
    purge = actions.add_parser("purge", help="purge now what the service purges every hour")
    for action in (report, purge):
        action.add_argument("--json", action="store_true", help="for scripts")


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError` or `DatabaseUnavailable`."""
    database_settings, settings = read_retention_settings(variables)
    if options.action == "report":
        kept = run_with_database(
            database_settings, lambda db, metrics: Retention(db, metrics, settings).report()
        )
        if options.json:
            print(msgspec.json.encode({"kept": kept}).decode())
        else:
            print_table(("KIND", "ROWS", "OLDEST", "KEPT FOR"), _rows(kept))
        return 0
    purged = run_with_database(
        database_settings, lambda db, metrics: Retention(db, metrics, settings).purge()
    )
    if options.json:
        print(msgspec.json.encode({"purged": purged}).decode())
    else:
        print("\n".join(f"purged {count} of {kind}" for kind, count in purged.items()))
    return 0


def _rows(kept: list[RetainedRows]) -> list[tuple[Any, ...]]:
    return [(one.kind, one.rows, one.oldest_at, f"{one.kept_for_s / DAY_S:g} d") for one in kept]
