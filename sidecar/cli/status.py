"""`sidecar status`: the running sidecar in one screen.

Reads `/status` of the ops listener. Needs neither central nor a token:

    kubectl exec POD -c cu-sidecar -- sidecar status

`--watch` shows it again and again.

Exit code 1 if something needs a look: it is not ready, writes are refused or parked, central is
away, the computing unit is down, or a write waits for longer than `LATE_S`.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from kit.http.ops_client import (
    EXIT_UNAVAILABLE,
    NotRunning,
    add_watch,
    print_problems,
    read_status,
)
from kit.tables import duration, print_table, watch
from sidecar.settings import Settings

EXIT_ATTENTION = 1
LATE_S = 60.0
"""A write that waits longer is worth a look: delivery takes milliseconds while central is up."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "status",
        help="spool, delivery, cache, leases, central and last problems",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    add_watch(parser)


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError`."""
    settings = Settings.from_environment(variables)
    return watch(lambda: _show(settings, as_json=options.json), options.watch)


def _show(settings: Settings, *, as_json: bool) -> int:
    try:
        status = read_status(settings.ops_listen)
    except NotRunning as error:
        print(f"sidecar status: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    findings = find_attention(status)
    if as_json:
        print(json.dumps({**status, "attention": findings}, indent=2))
    else:
        _print(status, findings)
    return EXIT_ATTENTION if findings else 0


def find_attention(status: Mapping[str, Any]) -> list[str]:
    """What needs a look, in words; empty if all is well."""
    spool, upstream, leases = status["spool"], status["upstream"], status["leases"]
    oldest_s = spool["oldest_waiting_s"]
    candidates = {
        f"not ready: {', '.join(status['not_ready'])}": bool(status["not_ready"]),
        "the spool is full: ordinary writes are refused": spool["full"],
        "the spool's volume is full": spool["disk_full"],
        f"delivery is parked: {upstream['parked_because']}": upstream["parked_because"] is not None,
        "central is away": not upstream["reachable"],
        "the computing unit is down": not leases["computing_unit_up"],
        f"the oldest write waits since {duration(oldest_s)}": oldest_s > LATE_S,
    }
    return [text for text, applies in candidates.items() if applies]


def _print(status: Mapping[str, Any], findings: list[str]) -> None:
    spool, upstream, leases = status["spool"], status["upstream"], status["leases"]
    cache, share = status["cache"], f"{100 * spool['used_ratio']:.1f} %"
    parked = upstream["parked_because"]
    rows = {
        "sidecar": f"{status['version']}, source {status['source_id']}",
        "attention": "; ".join(findings) or "none",
        "spool": f"{spool['waiting']} wait ({spool['waiting_terminal']} ends of runs,"
        f" {spool['waiting_coalesced']} coalesced), {share} of its size,"
        f" {spool['quarantined']} quarantined, {spool['skipped']} skipped",
        "oldest write": duration(spool["oldest_waiting_s"]),
        "delivery": "on" if parked is None else f"parked: {parked}",
        "central": f"{'reachable' if upstream['reachable'] else 'away'},"
        f" clock {upstream['clock_offset_s']:+.0f} s from ours",
        "cache": ", ".join(f"{count:.0f} {result}" for result, count in cache["results"].items()),
        "leases": f"{leases['held']} held, renewed {duration(leases['renewed_s_ago'])} ago, the"
        f" unit is {'up' if leases['computing_unit_up'] else 'down'}",
    }
    print_table(("WHAT", "STATE"), list(rows.items()))
    print_problems(status["problems"])
