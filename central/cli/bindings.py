"""`python -m central bindings ls|revoke`: who may write to what, and the end of it.

A revoked source's entries are refused from then on. Revoking does not take the user's token:
with it a sidecar may bind anew. A user who is to write nothing at all is demoted in Texera.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from central.cli import EXIT_FAILED, EXIT_UNAVAILABLE
from central.cli.tables import positive, table
from central.metrics import Metrics
from central.settings import DatabaseSettings, read_database_settings
from central.store.database import Database
from central.store.revocations import BindingFilter, ListedBinding, Revocations
from kit.http.problems import Problem
from kit.http.validation import is_valid_pg_text

T = TypeVar("T")

STATES = ("open", "live", "revoked", "all")
MAX_REASON_LENGTH = 500


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("bindings", help="list or revoke what sidecars may write to")
    actions = parser.add_subparsers(dest="action", required=True)
    ls = actions.add_parser("ls", help="list bindings, the newest first")
    ls.add_argument("--state", choices=STATES, default="open", help="open: unfinished runs")
    ls.add_argument("--limit", type=positive, default=1000)
    revoke = actions.add_parser("revoke", help="end the bindings that the filters name")
    revoke.add_argument("--reason", type=_reason, required=True, help="kept with the binding")
    for action in (ls, revoke):
        for name in ("execution", "user", "workflow", "computing-unit"):
            action.add_argument(f"--{name}", type=positive, metavar="ID")
        action.add_argument("--source", metavar="ID", help="a sidecar: the thumbprint of its key")
        action.add_argument("--json", action="store_true", help="for scripts")


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError`."""
    settings = read_database_settings(variables)
    wanted = BindingFilter(
        execution_id=options.execution,
        source_id=options.source,
        user_id=options.user,
        workflow_id=options.workflow,
        computing_unit_id=options.computing_unit,
    )
    try:
        if options.action == "ls":
            return _ls(settings, wanted, options)
        return _revoke(settings, wanted, options)
    except Problem as problem:
        print(f"{problem.slug}: {problem.detail}", file=sys.stderr)
        return EXIT_UNAVAILABLE


def _ls(settings: DatabaseSettings, wanted: BindingFilter, options: argparse.Namespace) -> int:
    found = _with_store(settings, lambda s: s.find(wanted, options.state, options.limit))
    if options.json:
        print(msgspec.json.encode({"bindings": found}).decode())
    else:
        rows = [_row(binding) for binding in found]
        print(table(("EXECUTION", "USER", "UNIT", "STATUS", "CREATED", "STATE", "SOURCE"), rows))
    return 0


def _revoke(settings: DatabaseSettings, wanted: BindingFilter, options: argparse.Namespace) -> int:
    if wanted.is_empty:
        print(
            "name what to revoke: --execution, --source, --user, --workflow or --computing-unit",
            file=sys.stderr,
        )
        return EXIT_FAILED
    revoked = _with_store(settings, lambda store: store.revoke(wanted, options.reason))
    if options.json:
        print(msgspec.json.encode({"revoked": revoked}).decode())
    else:
        for binding in revoked:
            print(f"revoked execution {binding.execution_id}, source {binding.source_id}")
    if not revoked:
        print("no unrevoked binding is meant by these filters", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _with_store(settings: DatabaseSettings, work: Callable[[Revocations], Awaitable[T]]) -> T:
    async def run_work() -> T:
        database = Database(settings, Metrics(CollectorRegistry()))
        try:
            return await work(Revocations(database))
        finally:
            await database.close()

    return asyncio.run(run_work())


def _row(binding: ListedBinding) -> Sequence[str]:
    if binding.revoked_at is not None:
        state = f"revoked: {binding.revoked_reason}"
    elif binding.lease_expires_at is None:
        state = "no lease"
    else:
        how = "live until" if binding.lease_is_alive else "lapsed at"
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


def _reason(text: str) -> str:
    if not (text.strip() and len(text) <= MAX_REASON_LENGTH and is_valid_pg_text(text)):
        raise argparse.ArgumentTypeError(f"expected 1 to {MAX_REASON_LENGTH} characters")
    return text
