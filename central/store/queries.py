"""Queries by name: `central/sql/<noun>.sql` holds blocks that begin with `-- name: block_name`.

The comment lines under a block's name explain its `$n`; they are not sent to the database.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

OF_MIGRATIONS = {"indexes", "migrations", "role"}
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Query:
    """One statement. Its name is what metrics call it."""

    name: str
    text: str


@cache
def load(noun: str) -> Mapping[str, Query]:
    """The blocks of `central/sql/<noun>.sql`. Raises ValueError for a name given twice."""
    return parse((files("central") / "sql" / f"{noun}.sql").read_text("utf-8"))


def statement_names() -> set[str]:
    """All statements but those of `migrate`, which has a connection of its own."""
    nouns = {file.name.removesuffix(".sql") for file in (files("central") / "sql").iterdir()}
    return {name for noun in nouns - OF_MIGRATIONS for name in load(noun)}


def parse(text: str) -> Mapping[str, Query]:
    _, *parts = _NAME.split(text)
    queries: dict[str, Query] = {}
    for name, block in zip(parts[::2], parts[1::2], strict=True):
        if name in queries:
            raise ValueError(f"two blocks are named {name}")
        queries[name] = Query(name, _without_heading(block))
    return MappingProxyType(queries)


def _without_heading(block: str) -> str:
    lines = block.strip().splitlines()
    while lines and lines[0].startswith("--"):
        del lines[0]
    return "\n".join(lines).rstrip().removesuffix(";")
