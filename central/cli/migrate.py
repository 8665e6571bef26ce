"""`central migrate`: creates or updates schema cu_metadata and the service's role."""

import argparse
import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from central.cli import EXIT_FAILED
from central.migrations import MigrationFailed
from central.migrations.indexes import create_indexes
from central.migrations.runner import migrate
from central.settings import read_migrate_settings


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "migrate", help="create or update schema cu_metadata and the service's role"
    )
    parser.add_argument(
        "--with-indexes",
        action="store_true",
        help="also create the indexes that Texera's tables lack, concurrently",
    )


def run(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    """Raises `SettingsError`."""
    settings = read_migrate_settings(variables)
    try:
        asyncio.run(migrate(settings, print))
        if options.with_indexes:
            asyncio.run(create_indexes(settings.owner_url, print))
    except MigrationFailed as error:
        print(f"migration failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0
