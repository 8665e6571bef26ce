"""`central audit ls|verify|export`: what privileged calls and operators did.

ls       the newest events
verify   whether an event was changed, removed or inserted since it was linked. Prints the end
         of the chain: keep it elsewhere, and pass it to later runs as --anchor
export   the chain as JSON lines, for another store
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from central.cli import EXIT_FAILED, parse_id, print_rows, run_with_database
from central.settings import DatabaseSettings, read_database_settings
from central.store.audit import Anchor, Audit, AuditEvent, EventFilter
from central.store.database import Database

ACTIONS = (
    "create",
    "bind",
    "take-over",
    "boot",
    "delete",
    "revoke",
    "close",
    "rotate",
    "revoke-source",
    "unpin",
)


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("audit", help="list, verify or export the audit")
    actions = parser.add_subparsers(dest="action", required=True)
    ls = actions.add_parser("ls", help="list events, the newest first")
    ls.add_argument("--event", choices=ACTIONS)
    ls.add_argument("--user", type=parse_id, metavar="ID")
    ls.add_argument("--execution", type=parse_id, metavar="ID")
    ls.add_argument("--source", metavar="ID", help="a sidecar: the thumbprint of its key")
    ls.add_argument("--limit", type=parse_id, default=1000)
    ls.add_argument("--json", action="store_true", help="for scripts")
    verify = actions.add_parser("verify", help="recompute the chain; exit code 1 if it was altered")
    verify.add_argument(
        "--anchor",
        type=_anchor,
        action="append",
        default=[],
        metavar="POSITION:HASH",
        help="an end that an earlier run or the log of `serve` gave; may be repeated",
    )
    verify.add_argument(
        "--first",
        type=parse_id,
        default=1,
        metavar="POSITION",
        help="where the chain begins, if earlier links were deleted on purpose",
    )
    verify.add_argument("--json", action="store_true", help="for scripts")
    actions.add_parser("export", help="print the chain as JSON lines, the oldest link first")


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError` or `DatabaseUnavailable`."""
    settings = read_database_settings(variables)
    if options.action == "verify":
        return _verify(settings, options)
    if options.action == "export":
        run_with_database(settings, lambda database, _: _export(database))
        return 0
    return _ls(settings, options)


def _ls(settings: DatabaseSettings, options: argparse.Namespace) -> int:
    event_filter = EventFilter(options.event, options.user, options.execution, options.source)
    rows = run_with_database(
        settings, lambda database, _: Audit(database).find(event_filter, options.limit)
    )
    print_rows("events", AuditEvent, rows, as_json=options.json)
    return 0


def _verify(settings: DatabaseSettings, options: argparse.Namespace) -> int:
    verified = run_with_database(
        settings,
        lambda database, _: Audit(database).verify(options.anchor, options.first),
    )
    end = str(verified.end) if verified.end is not None else None
    if options.json:
        document = {**msgspec.structs.asdict(verified), "end": end}
        print(msgspec.json.encode(document).decode())
    else:
        for finding in verified.findings:
            print(finding, file=sys.stderr)
        print(f"{verified.linked_count} linked, {verified.unlinked_count} not yet, end {end}")
    return EXIT_FAILED if verified.findings else 0


async def _export(database: Database) -> None:
    async for link in Audit(database).links():
        document = {"position": link.position, "hash": link.hash.hex(), "event": link.event}
        print(msgspec.json.encode(document).decode())


def _anchor(text: str) -> Anchor:
    position, _, digest = text.partition(":")
    try:
        anchor = Anchor(int(position), bytes.fromhex(digest))
    except ValueError as error:
        raise argparse.ArgumentTypeError("expected POSITION:HASH") from error
    if anchor.position < 1 or len(anchor.hash) != 32:
        raise argparse.ArgumentTypeError("expected POSITION:HASH")
    return anchor
