"""`central sources revoke|unpin --source ID`: ends a sidecar's key, or its certificate.

revoke   all its bindings are revoked, and those of the keys that it was replaced by. From then on
         none of these keys binds, creates, boots or is replaced, whatever user's token comes with
         the call, and their entries are refused. A run token of theirs is good for
         CENTRAL_RUN_TOKEN_LIFETIME_S at most. It cannot be undone: a sidecar that is to go on
         needs a new key, and so a new volume
unpin    the key may be used with another certificate, say after the fleet's names have changed
"""

import argparse
import re
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from central.cli import EXIT_FAILED, parse_reason, run_with_database
from central.settings import DatabaseSettings, read_database_settings
from central.store.bindings import Revocations
from central.store.sources import Sources

_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("sources", help="revoke a sidecar's key, or unpin it")
    actions = parser.add_subparsers(dest="action", required=True)
    revoke = actions.add_parser("revoke", help="end a key and those that came after it")
    unpin = actions.add_parser("unpin", help="forget which certificate a key was used with")
    for action in (revoke, unpin):
        action.add_argument(
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
    settings = read_database_settings(variables)
    if options.action == "unpin":
        return _unpin(settings, options.source)
    revoked = run_with_database(
        settings, lambda db, _: Revocations(db).revoke_source(options.source, options.reason)
    )
    if options.json:
        print(msgspec.json.encode(revoked).decode())
        return 0
    for source_id in revoked.source_ids:
        print(f"revoked source {source_id}")
    for binding in revoked.bindings:
        print(f"revoked execution {binding.execution_id}, source {binding.source_id}")
    return 0


def _unpin(settings: DatabaseSettings, source_id: str) -> int:
    identity = run_with_database(settings, lambda db, _: Sources(db).forget_certificate(source_id))
    if identity is None:
        print("no certificate is known of this source", file=sys.stderr)
        return EXIT_FAILED
    print(f"forgot {identity}: the next certificate that the source is used with is its own")
    return 0


def _thumbprint(text: str) -> str:
    if not _THUMBPRINT.fullmatch(text):
        raise argparse.ArgumentTypeError("expected the 43 characters of a key's thumbprint")
    return text
