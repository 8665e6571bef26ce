"""Accounts as they are now, for the check that a token's user was not demoted since."""

from central.store.database import Database
from central.store.queries import load


class Accounts:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("accounts")

    async def role(self, user_id: int) -> str | None:
        """REGULAR or ADMIN; None for an account that is gone or may not act."""
        rows = await self._database.read(self._queries["account_role"], user_id)
        return rows[0]["role"] if rows else None
