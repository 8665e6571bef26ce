"""Queries by name: `central/sql/<noun>.sql` holds blocks that begin with `-- name: block_name`.

The comment lines under a block's name explain its parameters; they are not sent to the database.
Parameters are `$n`, or `@name` where a statement has many: these are numbered in the order in which
they first appear, and `Query.with_values` puts their values into it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

OF_MIGRATIONS = {"indexes", "migrations", "role"}
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PARAMETER = re.compile(r"@(\w+)")


@dataclass(frozen=True, slots=True)
class Query:
    """One statement. Its name is what metrics call it."""

    name: str
    text: str
    parameters: tuple[str, ...] = ()
    """The names of `$1`, `$2` and so on, if they have names."""

    def with_values(self, values: Mapping[str, Any]) -> "tuple[Query, *tuple[Any, ...]]":
        """The query, and `values` as its arguments. Raises KeyError unless they are all of them."""
        if len(values) != len(self.parameters):
            raise KeyError(*values.keys() ^ set(self.parameters))
        return self, *map(values.__getitem__, self.parameters)


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
        statement = _without_heading(block)
        parameters = tuple(dict.fromkeys(_PARAMETER.findall(statement)))
        for number, parameter in enumerate(parameters, start=1):
            statement = re.sub(rf"@{parameter}\b", f"${number}", statement)
        queries[name] = Query(name, statement, parameters)
    return MappingProxyType(queries)


def _without_heading(block: str) -> str:
    lines = block.strip().splitlines()
    while lines and lines[0].startswith("--"):
        del lines[0]
    return "\n".join(lines).rstrip().removesuffix(";")
