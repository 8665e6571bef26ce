"""`python -m central retention report|purge`: what is kept of our own rows, and for how long."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from central.cli import EXIT_UNAVAILABLE
from central.cli.tables import table
from central.metrics import Metrics
from central.settings import read_retention_settings
from central.store.database import Database
from central.store.retention import Kept, Retention
from kit.http.problems import Problem

T = TypeVar("T")

DAY_S = 86_400


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("retention", help="report or purge old rows of cu_metadata")
    actions = parser.add_subparsers(dest="action", required=True)
    report = actions.add_parser("report", help="rows by kind, the oldest, how long each is kept")
    purge = actions.add_parser("purge", help="purge now what the service would purge in the hour")
    for action in (report, purge):
        action.add_argument("--json", action="store_true", help="for scripts")


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError`."""
    try:
        if options.action == "report":
            return _tell_report(_run(variables, Retention.report), options)
        purged = _run(variables, Retention.purge)
    except Problem as problem:
        print(f"{problem.slug}: {problem.detail}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    if options.json:
        print(msgspec.json.encode({"purged": purged}).decode())
    else:
        print("\n".join(f"purged {count} of {kind}" for kind, count in purged.items()))
    return 0


def _tell_report(kept: list[Kept], options: argparse.Namespace) -> int:
    if options.json:
        print(msgspec.json.encode({"kept": kept}).decode())
        return 0
    rows = [
        (
            one.kind,
            str(one.rows),
            f"{one.oldest_at:%Y-%m-%d %H:%M:%S}Z" if one.oldest_at else "-",
            f"{one.kept_for_s / DAY_S:g} d",
        )
        for one in kept
    ]
    print(table(("KIND", "ROWS", "OLDEST", "KEPT FOR"), rows))
    return 0


def _run(variables: Mapping[str, str], work: Callable[[Retention], Awaitable[T]]) -> T:
    database_settings, settings = read_retention_settings(variables)

    async def run_work() -> T:
        metrics = Metrics(CollectorRegistry())
        database = Database(database_settings, metrics)
        try:
            return await work(Retention(database, metrics, settings))
        finally:
            await database.close()

    return asyncio.run(run_work())
