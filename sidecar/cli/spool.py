"""`sidecar spool ls | show ID | export | skip ID`: contents and condition of a spool.

All but `skip` read only, beside a running sidecar or when it is stopped, and never needs central:

    kubectl exec POD -c cu-sidecar -- sidecar spool ls
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from kit.http.settings import EXIT_USAGE
from kit.tables import print_table
from sidecar.spool.inspect import (
    InspectedSpool,
    NoSpool,
    Unreadable,
    WriteLine,
    inspected,
    skip_write,
)
from sidecar.spool.lock import SpoolInUse
from sidecar.spool.schema import UnknownFormat

DEFAULT_DIRECTORY = "/var/lib/sidecar"
EXIT_DAMAGED = 1
EXIT_DATA = 65
"""The file cannot be read as a spool (EX_DATAERR)."""
EXIT_NO_INPUT = 66
"""There is no spool, or no such write in it (EX_NOINPUT)."""

EXIT_IN_USE = 75
"""A sidecar uses the spool (EX_TEMPFAIL)."""

_STATES = {
    "waiting": {"durable", "in-flight"},
    "durable": {"durable"},
    "in-flight": {"in-flight"},
    "committed": {"committed"},
    "refused": {"refused"},
    "all": {"durable", "in-flight", "committed", "refused"},
}
_COLUMNS = ("write", "execution", "user", "operation", "state", "bytes", "made at", "problem")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "spool",
        help="inspect a spool (running or stopped, read only)",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_directory(parser, default=None)
    actions = parser.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("ls", help="writes, by default those that wait")
    show = actions.add_parser("show", help="one write: its payload, its batch, its outcome")
    show.add_argument("id", metavar="ID", help="a write_id, or its number")
    show.add_argument("--json", action="store_true", help="for programs")
    skip = actions.add_parser("skip", help="give one waiting write up (the sidecar is stopped)")
    skip.add_argument("id", metavar="ID", help="a write_id, or its number")
    writes = commands.add_parser(
        "writes", help="the newest writes, waiting and settled (`spool ls --state all`)"
    )
    writes.set_defaults(action="ls")
    for action in (listing, writes):
        _add_listing(action, default_state="waiting" if action is listing else "all")
    export = actions.add_parser("export", help="waiting writes as JSON lines, in order")
    for action in (listing, show, skip, export):
        _add_directory(action, default=argparse.SUPPRESS)
    _add_directory(writes, default=None)


def _add_listing(parser: argparse.ArgumentParser, default_state: str) -> None:
    parser.add_argument("--state", choices=_STATES, default=default_state)
    parser.add_argument("--execution", metavar="ID", type=int)
    parser.add_argument("--limit", metavar="N", type=int, default=100, help="0 for all")
    parser.add_argument("--json", action="store_true", help="for programs")


def _add_directory(parser: argparse.ArgumentParser, default: str | None) -> None:
    """`--dir`, before or after the action."""
    parser.add_argument(
        "--dir",
        metavar="DIR",
        type=Path,
        default=default,
        help=f"the spool's directory, or one under its quarantine/ (else SIDECAR_SPOOL_DIR, else"
        f" {DEFAULT_DIRECTORY})",
    )


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    directory = options.dir or Path(environ.get("SIDECAR_SPOOL_DIR") or DEFAULT_DIRECTORY)
    try:
        if options.action == "skip":
            return _skip(directory, options.id)
        with inspected(directory) as spool:
            return _ACTIONS[options.action](spool, options)
    except NoSpool as error:
        print(f"sidecar spool: {error}", file=sys.stderr)
        return EXIT_NO_INPUT
    except SpoolInUse as error:
        print(f"sidecar spool: {error}: stop it first", file=sys.stderr)
        return EXIT_IN_USE
    except (Unreadable, UnknownFormat) as error:
        print(f"sidecar spool: {error}", file=sys.stderr)
        return EXIT_DATA
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _list(spool: InspectedSpool, options: argparse.Namespace) -> int:
    if options.limit < 0:
        print("sidecar spool: --limit: expected 0 or more", file=sys.stderr)
        return EXIT_USAGE
    lines = spool.lines(_STATES[options.state], options.execution)
    shown = list(islice(lines, options.limit or None))
    summary = spool.summary()
    if options.json:
        print(json.dumps({"spool": summary, "writes": [asdict(line) for line in shown]}, indent=2))
        return 0
    if shown:
        print_table(_COLUMNS, [_cells(line) for line in shown])
    print(
        f"{len(shown)} shown; {summary['waiting']} wait ({summary['in_flight']} in flight,"
        f" {summary['waiting_coalesced']} coalesced), {summary['settled_kept']} settled are kept;"
        f" the sidecar is {'running' if summary['running'] else 'not running'}"
    )
    return 0


def _show(spool: InspectedSpool, options: argparse.Namespace) -> int:
    seq = spool.seq_of(options.id)
    shown = spool.show(seq) if seq is not None else None
    if shown is None:
        print(
            f"sidecar spool: {options.id} is no write of this spool ({spool.spool_id}), or it"
            " was settled too long ago",
            file=sys.stderr,
        )
        return EXIT_NO_INPUT
    if options.json:
        print(json.dumps(shown, indent=2))
        return 0
    for name, value in shown.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        print(f"{name.replace('_', ' '):14}{text}")
    return 0


def _skip(directory: Path, name: str) -> int:
    records = skip_write(directory, name)
    if not records:
        print(f"sidecar spool: {name} is no write that waits in this spool", file=sys.stderr)
        return EXIT_NO_INPUT
    for record in records:
        write = f"{record.op} {record.seq} of execution {record.execution_id}"
        if record.is_skipped:
            print(f"skipped {write}")
        else:
            print(f"{write} is in flight: the next start skips it, unless central has it already")
    return 0


def _export(spool: InspectedSpool, options: argparse.Namespace) -> int:
    damaged = 0
    for line in spool.export():
        damaged += bool(line.get("damaged"))
        print(json.dumps(line, ensure_ascii=False))
    if damaged:
        print(f"sidecar spool: {damaged} entries are damaged", file=sys.stderr)
    return EXIT_DAMAGED if damaged else 0


def _cells(line: WriteLine) -> tuple[str, ...]:
    return tuple("" if value is None else str(value) for value in asdict(line).values())


_ACTIONS = {"ls": _list, "show": _show, "export": _export}
