"""`central status`: this replica and the fleet in one screen.

Reads `/status` of the ops listener beside it, and the database for the fleet: sidecars with open
runs, what was refused and what was closed in the last hour.

    kubectl exec POD -c central -- central status

`--watch` shows it again and again.

Exit code 1 if something needs a look: the replica is not ready or a task of it failed in the last
minutes, or a sidecar is silent. 69 if the database is unavailable, or no replica answers.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from central.cli import EXIT_FAILED, EXIT_UNAVAILABLE, run_with_database
from central.settings import Settings, read_database_settings, read_settings
from central.store.fleet import Fleet, FleetOverview
from kit.http.ops_client import NotRunning, add_watch, print_problems, read_status
from kit.http.problems import Problem
from kit.tables import duration, print_table, watch

RECENT_S = 600.0


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="this replica and the fleet: sources, refusals, closures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    add_watch(parser)


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError`."""
    settings = read_settings(variables)
    return watch(lambda: _show(settings, variables, as_json=options.json), options.watch)


def _show(settings: Settings, variables: Mapping[str, str], *, as_json: bool) -> int:
    try:
        status = read_status(settings.ops_listen)
    except NotRunning as error:
        print(f"central status: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    overview, detail = None, None
    try:
        overview = run_with_database(
            read_database_settings(variables),
            lambda database, _: Fleet(database).overview(settings.lease_s),
        )
    except Problem as problem:
        detail = problem.detail
    attention = find_attention(status, overview)
    if as_json:
        fleet = None if overview is None else msgspec.to_builtins(overview)
        print(json.dumps({**status, "fleet": fleet, "attention": attention}, indent=2))
    else:
        _print(status, overview, detail, attention)
    if overview is None:
        return EXIT_UNAVAILABLE
    return EXIT_FAILED if attention else 0


def find_attention(status: Mapping[str, Any], overview: FleetOverview | None) -> list[str]:
    """What needs a look, in words; empty if all is well."""
    failing = [
        name
        for name, task in status["tasks"].items()
        if task["failed_s_ago"] is not None and task["failed_s_ago"] < RECENT_S
    ]
    silent_count = 0 if overview is None else overview.silent_count
    candidates = {
        f"not ready: {', '.join(status['not_ready'])}": bool(status["not_ready"]),
        f"tasks failed: {', '.join(failing)}": bool(failing),
        "the database is unavailable": overview is None,
        f"{silent_count} sources are silent": silent_count > 0,
    }
    return [text for text, applies in candidates.items() if applies]


def _print(
    status: Mapping[str, Any],
    overview: FleetOverview | None,
    detail: str | None,
    attention: list[str],
) -> None:
    pool = status["database"]
    rows = {
        "central": status["version"],
        "attention": "; ".join(attention) or "none",
        "pool": ", ".join(f"{name} {value}" for name, value in pool.items()),
    }
    if overview is None:
        rows["fleet"] = f"unknown: {detail}"
    else:
        rows |= {
            "fleet": f"{overview.source_count} sources with {overview.run_count} open runs,"
            f" {overview.lagging_count} lagging, {overview.silent_count} silent",
            "refused in 1 h": _counts(overview.refusals),
            "closed in 1 h": _counts(overview.closures),
        }
    print_table(("WHAT", "STATE"), list(rows.items()))
    if overview is not None and overview.late:
        late = [
            (s.source_id, s.computing_unit_id, s.open_count, f"{duration(s.renewed_s_ago)} ago")
            for s in overview.late
        ]
        print_table(("SOURCE", "UNIT", "OPEN RUNS", "RENEWED"), late)
    print_problems(status["problems"])


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
