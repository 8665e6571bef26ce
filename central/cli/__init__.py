"""Commands for operators. Each reads the same environment variables as `serve`.

Exit codes: 0 done, 1 the command found a failed check or nothing to do, 64 the settings or
arguments are unusable, 69 the database is unavailable.
"""

import argparse
import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from central.metrics import Metrics
from central.settings import DatabaseSettings
from central.store.database import Database
from kit.tables import print_table
from kit.texera.fields import INT32_MAX, is_valid_pg_text

T = TypeVar("T")

_PERIOD = re.compile(r"([0-9]{1,6})([smhd])", re.ASCII)
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

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


def print_rows(
    name: str, kind: type[msgspec.Struct], rows: Sequence[msgspec.Struct], *, as_json: bool
) -> None:
    """A table with a column for each field; or `{name: [...]}`."""
    if as_json:
        print(msgspec.json.encode({name: rows}).decode())
        return
    headings = [field.removesuffix("_id").upper() for field in kind.__struct_fields__]
    print_table(headings, [msgspec.structs.astuple(row) for row in rows])


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


def parse_period_s(text: str) -> float:
    """An argparse type: `90s`, `30m`, `2h` or `7d`, in seconds."""
    found = _PERIOD.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError("expected a time such as 30m, 2h or 7d")
    return float(found[1]) * _UNITS_S[found[2]]
