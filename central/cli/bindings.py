"""`central bindings ls|revoke`: lists and revokes the bindings of sidecars.

The entries of a revoked source are refused from then on; `--source` stands for the keys that came
after it as well. Revoking a binding does not invalidate the user's token: a sidecar may use it to
bind again. To stop a sidecar altogether, use `sources revoke`; to stop a user, demote the user in
Texera.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from central.cli import EXIT_FAILED, parse_id, parse_reason, run_with_database
from central.settings import DatabaseSettings, read_database_settings
from central.store.bindings import BindingFilter, ListedBinding, Revocations
from kit.tables import print_table

STATES = ("open", "live", "revoked", "all")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("bindings", help="list or revoke bindings of sidecars")
    actions = parser.add_subparsers(dest="action", required=True)
    ls = actions.add_parser("ls", help="list bindings, the newest first")
    ls.add_argument("--state", choices=STATES, default="open", help="open: unfinished runs")
    ls.add_argument("--limit", type=parse_id, default=1000)
    revoke = actions.add_parser("revoke", help="revoke the bindings that match the filters")
    revoke.add_argument("--reason", type=parse_reason, required=True, help="kept with the binding")
    for action in (ls, revoke):
        for name in ("execution", "user", "workflow", "computing-unit"):
            action.add_argument(f"--{name}", type=parse_id, metavar="ID")
        action.add_argument("--source", metavar="ID", help="a sidecar: the thumbprint of its key")
        action.add_argument("--json", action="store_true", help="for scripts")


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError` or `DatabaseUnavailable`."""
    settings = read_database_settings(variables)
    filters = BindingFilter(
        execution_id=options.execution,
        source_id=options.source,
        user_id=options.user,
        workflow_id=options.workflow,
        computing_unit_id=options.computing_unit,
    )
    if options.action == "ls":
        return _ls(settings, filters, options)
    return _revoke(settings, filters, options)


def _ls(settings: DatabaseSettings, filters: BindingFilter, options: argparse.Namespace) -> int:
    found = run_with_database(
        settings, lambda db, _: Revocations(db).find(filters, options.state, options.limit)
    )
    if options.json:
        print(msgspec.json.encode({"bindings": found}).decode())
    else:
        rows = [_row(binding) for binding in found]
        print_table(("EXECUTION", "USER", "UNIT", "STATUS", "CREATED", "STATE", "SOURCE"), rows)
    return 0


def _revoke(settings: DatabaseSettings, filters: BindingFilter, options: argparse.Namespace) -> int:
    if filters.is_empty:
        print(
            "expected a filter: --execution, --source, --user, --workflow or --computing-unit",
            file=sys.stderr,
        )
        return EXIT_FAILED
    revoked = run_with_database(
        settings, lambda db, _: Revocations(db).revoke(filters, options.reason)
    )
    if options.json:
        print(msgspec.json.encode({"revoked": revoked}).decode())
    else:
        for binding in revoked:
            print(f"revoked execution {binding.execution_id}, source {binding.source_id}")
    if not revoked:
        print("no unrevoked binding matches the filters", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _row(binding: ListedBinding) -> Sequence[str]:
    if binding.revoked_at is not None:
        state = f"revoked: {binding.revoked_reason}"
    elif not binding.may_set_status:
        state = "fields only"
    elif binding.lease_expires_at is None:
        state = "no lease"
    else:
        how = "live until" if binding.lease_is_live else "lapsed at"
        state = f"{how} {binding.lease_expires_at:%Y-%m-%d %H:%M:%S}Z"
    return (
        str(binding.execution_id),
        str(binding.user_id),
        str(binding.computing_unit_id or "-"),
        str(binding.status or "gone"),
        f"{binding.created_at:%Y-%m-%d %H:%M:%S}Z",
        state,
        binding.source_id,
    )
