"""Warehouses: the names that URIs carry. Older Texeras have none, newer ones a column and a table.

Whether they exist is read from the catalog once they do. "No" is not cached, because the next
upgrade of Texera may add them; only a call that names a warehouse, or binds an existing execution,
asks.
"""

from central.domain.callers import User
from central.problems import WarehouseNotFound, WarehouseUnsupported
from central.store.database import Transaction
from central.store.queries import load


class Warehouses:
    def __init__(self) -> None:
        self._queries = load("warehouses")
        self._exist = False

    async def of_user(self, transaction: Transaction, user: User, warehouse_id: int) -> str:
        """Raises `WarehouseUnsupported`, or `WarehouseNotFound` for one that is not the user's."""
        if not await self._are_supported(transaction):
            raise WarehouseUnsupported("warehouse_id: this Texera has no warehouses")
        row = await transaction.fetch_row(
            self._queries["warehouse_name"], warehouse_id, user.user_id
        )
        if row is None:
            raise WarehouseNotFound(f"warehouse_id: you have no warehouse {warehouse_id}")
        return str(row["name"])

    async def of_execution(self, transaction: Transaction, execution_id: int) -> str | None:
        """None for an execution in no warehouse."""
        if not await self._are_supported(transaction):
            return None
        row = await transaction.fetch_row(self._queries["execution_warehouse"], execution_id)
        return str(row["name"]) if row is not None else None

    async def _are_supported(self, transaction: Transaction) -> bool:
        if not self._exist:
            row = await transaction.fetch_row(self._queries["warehouses_exist"])
            self._exist = row is not None and row["exist"]
        return self._exist
