"""What differs between the versions of Texera's schema, found out once and again when it must."""

from dataclasses import dataclass

from central.store.database import Transaction
from central.store.queries import load


@dataclass(frozen=True, slots=True)
class SchemaFacts:
    has_warehouse_column: bool
    has_warehouse_table: bool

    @property
    def has_warehouses(self) -> bool:
        return self.has_warehouse_column and self.has_warehouse_table


class Schema:
    """Remembers the facts while they say that warehouses exist.

    An absent column may come with Texera's next upgrade, so "no" is asked again each time it
    matters: only a call that names a warehouse, or binds an old execution, ever asks.
    """

    def __init__(self) -> None:
        self._queries = load("schema")
        self._facts: SchemaFacts | None = None

    async def facts(self, transaction: Transaction) -> SchemaFacts:
        if self._facts is not None:
            return self._facts
        row = await transaction.fetch_row(self._queries["schema_facts"])
        assert row is not None  # noqa: S101 (the statement always answers one row)
        facts = SchemaFacts(row["has_warehouse_column"], row["has_warehouse_table"])
        if facts.has_warehouses:
            self._facts = facts
        return facts
