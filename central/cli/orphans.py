"""`central orphans ls|close`: stale executions that the orphan closer leaves open.

    --kind unbound   open executions that no sidecar was ever bound to, selected by age and by
                     the state of their unit
    --kind lapsed    orphans that the closer withholds, because too many leases lapsed at once;
                     to be closed once an operator knows that their units are gone

A closed execution becomes FAILED, provisionally, as if the closer had closed it.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from central.cli import EXIT_FAILED, parse_id, run_with_database
from central.jobs.orphan_closer import CHUNK, chunks
from central.metrics import Metrics
from central.settings import DatabaseSettings, read_database_settings
from central.store.database import Database
from central.store.orphans import (
    CLOSE_CHUNK,
    CloseReason,
    ExecutionCloser,
    OrphanStore,
    UnboundExecutions,
    UnboundFilter,
    UnboundRun,
)
from kit.tables import print_table

T = TypeVar("T")

EXIT_USAGE = 2  # argparse's own
DEFAULT_MIN_AGE_H = 24.0
ATTEMPTS = 50
ATTEMPT_PERIOD_S = 0.1
UNIT_STATES = ("running", "terminated", "none")
HEADINGS = ("EXECUTION", "WORKFLOW", "USER", "UNIT", "UNIT STATE", "STATUS", "LAST UPDATE")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "orphans", help="list or close stale executions that the closer leaves open"
    )
    actions = parser.add_subparsers(dest="action", required=True)
    ls = actions.add_parser("ls", help="list them")
    close = actions.add_parser("close", help="close them as FAILED")
    for action in (ls, close):
        action.add_argument("--kind", choices=("unbound", "lapsed"), default="unbound")
        action.add_argument(
            "--min-age-h",
            type=_hours,
            help="unbound: hours since the last update, longer than any run"
            f" (ls: {DEFAULT_MIN_AGE_H:g}; close: required)",
        )
        action.add_argument(
            "--unit-state",
            choices=UNIT_STATES,
            help="unbound: only those whose unit is in this state",
        )
        action.add_argument("--computing-unit", type=parse_id, metavar="ID")
        action.add_argument("--json", action="store_true", help="for scripts")


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError` or `DatabaseUnavailable`."""
    settings = read_database_settings(variables)
    min_age_h = DEFAULT_MIN_AGE_H if options.min_age_h is None else options.min_age_h
    filters = UnboundFilter(min_age_h * 3600, options.unit_state, options.computing_unit)
    if options.kind == "lapsed":
        if options.unit_state is not None:
            print("--unit-state: applies to --kind unbound only", file=sys.stderr)
            return EXIT_USAGE
        ids = _run(settings, lambda _, orphans: _lapsed(orphans, options))
    elif options.action == "close" and options.min_age_h is None:
        print("--min-age-h: required to close --kind unbound", file=sys.stderr)
        return EXIT_USAGE
    elif options.action == "ls":
        return _print_unbound(_run(settings, lambda unbound, _: _find(unbound, filters)), options)
    else:
        ids = _run(settings, lambda unbound, _: _close(unbound, filters))
    if ids is None:
        print("another process is closing orphans: try again later", file=sys.stderr)
        return EXIT_FAILED
    return _print_ids(ids, options)


async def _find(unbound: UnboundExecutions, filters: UnboundFilter) -> list[UnboundRun]:
    return [run async for run in unbound.find(filters)]


async def _close(unbound: UnboundExecutions, filters: UnboundFilter) -> list[int]:
    """Closes page by page, each in a short transaction."""
    closed: list[int] = []
    page: list[UnboundRun] = []
    async for run in unbound.find(filters):
        page.append(run)
        if len(page) == CLOSE_CHUNK:
            closed += await unbound.close(page, filters.min_age_s)
            page = []
    return closed + await unbound.close(page, filters.min_age_s)


async def _lapsed(orphans: OrphanStore, options: argparse.Namespace) -> list[int] | None:
    found = await orphans.lapsed(options.computing_unit)
    if options.action == "ls":
        return found
    closed: list[int] = []
    for chunk in chunks(dict.fromkeys(found, CloseReason.LEASE_LAPSED), CHUNK):
        for _ in range(ATTEMPTS):  # a closer holds the lock for one chunk, some milliseconds
            ended = await orphans.close(chunk, operator_override=True)
            if ended is not None:
                break
            await asyncio.sleep(ATTEMPT_PERIOD_S)
        else:
            return None
        closed += ended
    return closed


def _print_unbound(runs: list[UnboundRun], options: argparse.Namespace) -> int:
    if options.json:
        print(msgspec.json.encode({"runs": runs}).decode())
    else:
        print_table(HEADINGS, [_row(run) for run in runs])
    return 0


def _print_ids(ids: list[int], options: argparse.Namespace) -> int:
    state = "closed" if options.action == "close" else "lapsed"
    if options.json:
        print(msgspec.json.encode({state: ids}).decode())
    else:
        print("\n".join([*(f"{state} execution {i}" for i in ids), f"{state}: {len(ids)}"]))
    return 0


def _row(run: UnboundRun) -> tuple[str, ...]:
    return (
        str(run.execution_id),
        str(run.workflow_id),
        str(run.user_id),
        str(run.computing_unit_id or "-"),
        run.unit_state,
        str(run.status),
        f"{run.updated_at:%Y-%m-%d %H:%M:%S}Z",
    )


def _run(
    settings: DatabaseSettings, work: Callable[[UnboundExecutions, OrphanStore], Awaitable[T]]
) -> T:
    async def with_stores(database: Database, metrics: Metrics) -> T:
        execution_closer = ExecutionCloser(metrics)
        return await work(
            UnboundExecutions(database, execution_closer),
            OrphanStore(database, execution_closer, 0.0),
        )

    return run_with_database(settings, with_stores)


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 <= hours <= 1e6:
        raise argparse.ArgumentTypeError("expected hours from 0")
    return hours
