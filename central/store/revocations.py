"""Bindings as an operator sees and ends them."""

from datetime import datetime
from functools import partial
from typing import Literal, TypeAlias

import msgspec

from central.store.database import Database, Transaction
from central.store.queries import load
from kit.texera.statuses import Status, status_of_code

State: TypeAlias = Literal["open", "live", "revoked", "all"]


class BindingFilter(msgspec.Struct, frozen=True):
    """Which bindings are meant: those that agree with every part that is given."""

    execution_id: int | None = None
    source_id: str | None = None
    user_id: int | None = None
    workflow_id: int | None = None
    computing_unit_id: int | None = None

    @property
    def is_empty(self) -> bool:
        return self == BindingFilter()


class ListedBinding(msgspec.Struct, frozen=True):
    """`status` is None for an execution that is gone, `lease_expires_at` where none was made."""

    execution_id: int
    source_id: str
    user_id: int
    workflow_id: int
    computing_unit_id: int | None
    status: Status | None
    created_at: datetime
    lease_expires_at: datetime | None
    lease_is_alive: bool
    revoked_at: datetime | None
    revoked_reason: str | None


class RevokedBinding(msgspec.Struct, frozen=True):
    execution_id: int
    source_id: str
    user_id: int


class Revocations:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("revocations")

    async def find(self, wanted: BindingFilter, state: State, limit: int) -> list[ListedBinding]:
        """The newest first."""
        parts = msgspec.structs.astuple(wanted)
        rows = await self._database.read(self._queries["list_bindings"], *parts, state, limit)
        found = []
        for row in rows:
            values = dict(row)
            code = values.pop("status_code")
            status = None if code is None else status_of_code(code)
            found.append(ListedBinding(status=status, **values))
        return found

    async def revoke(self, wanted: BindingFilter, reason: str) -> list[RevokedBinding]:
        """What was revoked just now. From the commit on, the sources' entries are refused."""
        return await self._database.run(partial(self._revoke, wanted=wanted, reason=reason))

    async def _revoke(
        self, transaction: Transaction, *, wanted: BindingFilter, reason: str
    ) -> list[RevokedBinding]:
        parts = msgspec.structs.astuple(wanted)
        rows = await transaction.fetch(self._queries["revoke_bindings"], *parts, reason)
        return [RevokedBinding(**dict(row)) for row in rows]
