"""Warehouses: the names that URIs carry. Only newer Texeras have them (`store/schema.py`)."""

from central.auth.user_tokens import User
from central.problems import WarehouseNotFound, WarehouseUnsupported
from central.store.database import Transaction
from central.store.queries import load
from central.store.schema import Schema


class Warehouses:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._queries = load("warehouses")

    async def of_user(self, transaction: Transaction, user: User, warehouse_id: int) -> str:
        """Raises `WarehouseUnsupported`, or `WarehouseNotFound` for one that is not the user's."""
        if not (await self._schema.facts(transaction)).has_warehouses:
            raise WarehouseUnsupported("warehouse_id: this Texera has no warehouses")
        row = await transaction.fetch_row(
            self._queries["warehouse_name"], warehouse_id, user.user_id
        )
        if row is None:
            raise WarehouseNotFound(f"warehouse_id: you have no warehouse {warehouse_id}")
        return str(row["name"])

    async def of_execution(self, transaction: Transaction, execution_id: int) -> str | None:
        """None for an execution in no warehouse."""
        if not (await self._schema.facts(transaction)).has_warehouses:
            return None
        row = await transaction.fetch_row(self._queries["execution_warehouse"], execution_id)
        return str(row["name"]) if row is not None else None
