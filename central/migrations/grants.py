"""What the service's role is granted on Texera's tables, read from `central/sql/role.sql`.

The file is the one list: `migrate` runs it, and `doctor` compares a database with it.
"""

import re
from collections.abc import Iterator

from central.store.queries import Query, load
from central.store.role import Privilege

_GRANT = re.compile(r'grant\s+([^;]+?)\s+on\s+texera_db\."?(\w+)"?\s+to\s', re.IGNORECASE)
_PART = re.compile(r"(select|insert|update|delete)\s*(?:\(([^)]*)\))?", re.IGNORECASE)


def grants(*, has_warehouse_column: bool, has_warehouse_table: bool) -> list[Query]:
    """The statements that grant the role what it needs; their variables are not filled in."""
    queries = load("role")
    chosen = [queries["grant"]]
    if has_warehouse_column:
        chosen.append(queries["grant_warehouse_column"])
    if has_warehouse_table:
        chosen.append(queries["grant_warehouse_table"])
    return chosen


def granted_privileges(*, has_warehouses: bool) -> set[Privilege]:
    """Every privilege by table and column."""
    chosen = grants(has_warehouse_column=has_warehouses, has_warehouse_table=has_warehouses)
    return {privilege for query in chosen for privilege in _parse(query.text)}


def _parse(text: str) -> Iterator[Privilege]:
    for parts, table in _GRANT.findall(re.sub(r"--[^\n]*", "", text)):
        for kind, columns in _PART.findall(parts):
            for column in columns.split(",") if columns else [""]:
                yield Privilege(table, kind.upper(), column.strip())
