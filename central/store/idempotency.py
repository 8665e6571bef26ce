"""Idempotency keys: a repeated call gets the first answer, and the work is done once.

A key is claimed in the transaction that does the work and keeps its answer there, so either
both exist or neither. A repeat that arrives while the first is still at work waits for it at
the key's row.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from asyncpg import ForeignKeyViolationError

from central.problems import IdempotencyKeyReused
from central.store.database import Database, Transaction
from central.store.queries import load


@dataclass(frozen=True, slots=True)
class KeyedCall:
    """What a key stands for: this user's call of this route with this body."""

    user_id: int
    route: str
    key: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer as it was first given: HTTP status and JSON."""

    status: int
    body: bytes


class IdempotencyKeys:
    """Promise: of calls with the same key, one does the work, and all get its answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("idempotency")

    async def once(
        self, call: KeyedCall, work: Callable[[Transaction], Awaitable[StoredAnswer]]
    ) -> StoredAnswer:
        """Raises `IdempotencyKeyReused` for another body; what `work` raises keeps no key."""

        # A foreign key is violated when what the call names is deleted while it runs: run
        # again, the work finds that it is gone.
        return await self._database.run(
            partial(self._once, call=call, work=work),
            lost_races=(ForeignKeyViolationError,),
        )

    async def _once(
        self,
        transaction: Transaction,
        *,
        call: KeyedCall,
        work: Callable[[Transaction], Awaitable[StoredAnswer]],
    ) -> StoredAnswer:
        names = (call.user_id, call.route, call.key)
        claimed = await transaction.fetch_row(self._queries["claim_key"], *names, call.body_sha256)
        if claimed is None:
            return await self._stored(transaction, call)
        answer = await work(transaction)
        await transaction.execute(self._queries["store_answer"], *names, answer.status, answer.body)
        return answer

    async def _stored(self, transaction: Transaction, call: KeyedCall) -> StoredAnswer:
        stored = await transaction.fetch_row(
            self._queries["stored_answer"], call.user_id, call.route, call.key
        )
        assert stored is not None  # noqa: S101 (the claim met this row; keys live for a day)
        if stored["body_sha256"] != call.body_sha256:
            raise IdempotencyKeyReused(
                "Idempotency-Key: this key was used for a call with another body"
            )
        return StoredAnswer(stored["status"], stored["answer"])
