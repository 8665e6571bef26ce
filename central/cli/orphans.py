"""`python -m central debris ls|close`: open runs that the closer leaves alone.

`unbound` ones no sidecar ever bound: rows from before, judged by age and by their unit's state.
`lapsed` ones are orphans that the closer holds back, because too many fell silent at once: once
a human has seen that they are dead, they are closed here. What is closed becomes FAILED,
provisionally, as if the closer had done it.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from central.cli import EXIT_FAILED, EXIT_UNAVAILABLE
from central.cli.tables import positive, table
from central.jobs.orphan_closer import CHUNK, chunks
from central.metrics import Metrics
from central.settings import DatabaseSettings, read_database_settings
from central.store.close_executions import Closings, Reason
from central.store.database import Database
from central.store.orphans import OrphanStore
from central.store.unbound_executions import PAGE, UnboundExecutions, UnboundFilter, UnboundRun
from kit.http.problems import Problem

T = TypeVar("T")

EXIT_USAGE = 2  # argparse's own
ATTEMPTS = 50
ATTEMPT_PERIOD_S = 0.1
UNIT_STATES = ("running", "terminated", "none")
HEADS = ("EXECUTION", "WORKFLOW", "USER", "UNIT", "UNIT STATE", "STATUS", "LAST UPDATE")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("debris", help="list or close open runs that nobody closes")
    actions = parser.add_subparsers(dest="action", required=True)
    ls = actions.add_parser("ls", help="list them; changes nothing")
    close = actions.add_parser("close", help="end them as FAILED")
    for action in (ls, close):
        action.add_argument("--kind", choices=("unbound", "lapsed"), default="unbound")
        action.add_argument(
            "--min-age-h",
            type=_hours,
            required=action is close,
            default=24.0,
            help="unbound: hours since the last update; a run may be that long (ls: %(default)s)",
        )
        action.add_argument("--unit-state", choices=UNIT_STATES, help="unbound: of this only")
        action.add_argument("--computing-unit", type=positive, metavar="ID")
        action.add_argument("--json", action="store_true", help="for scripts")


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError`."""
    settings = read_database_settings(variables)
    wanted = UnboundFilter(options.min_age_h * 3600, options.unit_state, options.computing_unit)
    if options.kind == "lapsed" and options.unit_state is not None:
        print("--unit-state: only unbound runs are told apart by it", file=sys.stderr)
        return EXIT_USAGE
    try:
        if options.kind == "lapsed":
            ids = _run(settings, lambda debris, orphans: _lapsed(orphans, options))
        elif options.action == "ls":
            return _ls(_run(settings, lambda debris, orphans: _found(debris, wanted)), options)
        else:
            ids = _run(settings, lambda debris, orphans: _close(debris, wanted))
    except Problem as problem:
        print(f"{problem.slug}: {problem.detail}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    if ids is None:
        print("another process is closing orphans: try again in a moment", file=sys.stderr)
        return EXIT_FAILED
    return _tell(ids, options)


async def _found(debris: UnboundExecutions, wanted: UnboundFilter) -> list[UnboundRun]:
    return [found async for found in debris.find(wanted)]


async def _close(debris: UnboundExecutions, wanted: UnboundFilter) -> list[int]:
    """Page by page, each in a short transaction."""
    closed: list[int] = []
    page: list[UnboundRun] = []
    async for found in debris.find(wanted):
        page.append(found)
        if len(page) == PAGE:
            closed += await debris.close(page, wanted.min_age_s)
            page = []
    return closed + await debris.close(page, wanted.min_age_s)


async def _lapsed(orphans: OrphanStore, options: argparse.Namespace) -> list[int] | None:
    found = await orphans.lapsed(options.computing_unit)
    if options.action == "ls":
        return found
    closed: list[int] = []
    for chunk in chunks(dict.fromkeys(found, Reason.LEASE_LAPSED), CHUNK):
        for _ in range(ATTEMPTS):  # a closer is done with a chunk of its own in milliseconds
            ended = await orphans.close(chunk, operator_override=True)
            if ended is not None:
                break
            await asyncio.sleep(ATTEMPT_PERIOD_S)
        else:
            return None
        closed += ended
    return closed


def _ls(found: list[UnboundRun], options: argparse.Namespace) -> int:
    if options.json:
        print(msgspec.json.encode({"runs": found}).decode())
    else:
        print(table(HEADS, [_row(unbound) for unbound in found]))
    return 0


def _tell(ids: list[int], options: argparse.Namespace) -> int:
    what = "closed" if options.action == "close" else "lapsed"
    if options.json:
        print(msgspec.json.encode({what: ids}).decode())
    else:
        print("\n".join([*(f"{what} execution {i}" for i in ids), f"{what}: {len(ids)}"]))
    return 0


def _row(unbound: UnboundRun) -> tuple[str, ...]:
    return (
        str(unbound.execution_id),
        str(unbound.workflow_id),
        str(unbound.user_id),
        str(unbound.computing_unit_id or "-"),
        unbound.unit_state,
        str(unbound.status),
        f"{unbound.updated_at:%Y-%m-%d %H:%M:%S}Z",
    )


def _run(
    settings: DatabaseSettings, work: Callable[[UnboundExecutions, OrphanStore], Awaitable[T]]
) -> T:
    async def run_work() -> T:
        metrics = Metrics(CollectorRegistry())
        database, closings = Database(settings, metrics), Closings(metrics)
        try:
            return await work(
                UnboundExecutions(database, closings), OrphanStore(database, closings, 0.0)
            )
        finally:
            await database.close()

    return asyncio.run(run_work())


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 <= hours <= 1e6:
        raise argparse.ArgumentTypeError("expected hours from 0")
    return hours
