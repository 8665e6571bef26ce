"""`central sources revoke --source ID`: ends a sidecar's key.

All its bindings are revoked, and those of the keys that it was replaced by. From then on none of
these keys binds, creates, boots or is replaced, whatever user's token comes with the call, and
their entries are refused. A run token of theirs is good for CENTRAL_RUN_TOKEN_LIFETIME_S at most.
It cannot be undone: a sidecar that is to go on needs a new key, and so a new volume.
"""

import argparse
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from central.cli import parse_reason, run_with_database
from central.settings import read_database_settings
from central.store.bindings import Revocations

_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("sources", help="revoke a sidecar's key")
    actions = parser.add_subparsers(dest="action", required=True)
    revoke = actions.add_parser("revoke", help="end a key and those that came after it")
    revoke.add_argument(
        "--source",
        type=_thumbprint,
        required=True,
        metavar="ID",
        help="a sidecar: the thumbprint of its key",
    )
    revoke.add_argument("--reason", type=parse_reason, required=True, help="kept with the key")
    revoke.add_argument("--json", action="store_true", help="for scripts")


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError` or `DatabaseUnavailable`."""
    revoked = run_with_database(
        read_database_settings(variables),
        lambda db, _: Revocations(db).revoke_source(options.source, options.reason),
    )
    if options.json:
        print(msgspec.json.encode(revoked).decode())
        return 0
    for source_id in revoked.source_ids:
        print(f"revoked source {source_id}")
    for binding in revoked.bindings:
        print(f"revoked execution {binding.execution_id}, source {binding.source_id}")
    return 0


def _thumbprint(text: str) -> str:
    if not _THUMBPRINT.fullmatch(text):
        raise argparse.ArgumentTypeError("expected the 43 characters of a key's thumbprint")
    return text
