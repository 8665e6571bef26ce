"""Commands for operators. Each reads the same environment variables as `serve`.

Exit codes: 0 done, 1 the command found a failed check or nothing to do, 64 the settings or
arguments are unusable, 69 the database is unavailable.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry

from central.metrics import Metrics
from central.settings import DatabaseSettings
from central.store.database import Database
from kit.texera.fields import INT32_MAX, is_valid_pg_text

T = TypeVar("T")

EXIT_FAILED = 1
MAX_REASON_LENGTH = 500
EXIT_UNAVAILABLE = 69
"""EX_UNAVAILABLE of sysexits.h."""


def run_with_database(
    settings: DatabaseSettings, work: Callable[[Database, Metrics], Awaitable[T]]
) -> T:
    """Raises `DatabaseUnavailable`."""

    async def run() -> T:
        metrics = Metrics(CollectorRegistry())
        database = Database(settings, metrics)
        try:
            return await work(database, metrics)
        finally:
            await database.close()

    return asyncio.run(run())


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *rows)
    )
    return "\n".join(lines)


def join_sources(arguments: Sequence[str]) -> list[str]:
    """Each `--source ID` as `--source=ID`: an id may begin with a dash, and argparse would take it
    for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--source":
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def parse_id(text: str) -> int:
    """An argparse type."""
    number = int(text)
    if not 1 <= number <= INT32_MAX:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {INT32_MAX}")
    return number


def parse_reason(text: str) -> str:
    """An argparse type: an operator's text, which is kept."""
    if not (text.strip() and len(text) <= MAX_REASON_LENGTH and is_valid_pg_text(text)):
        raise argparse.ArgumentTypeError(f"expected 1 to {MAX_REASON_LENGTH} characters")
    return text
