"""Idempotency keys: the work is done once, and a repeated call gets the first response.

The key is claimed, and the response stored, in the transaction that does the work, so that all of
it is committed or none. A repeated call that arrives meanwhile waits for the key's row lock.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from asyncpg import ForeignKeyViolationError

from central.metrics import Metrics
from central.problems import DatabaseUnavailable, IdempotencyKeyReused
from central.store.database import Database, Transaction
from central.store.failing_rows import FailingRows
from central.store.failures import Policy, StatementError, policy_of, problem_of
from central.store.queries import load
from central.store.sources import check_retired

FAILING_RETRY_AFTER_S = 30.0  # an operator has to act


@dataclass(frozen=True, slots=True)
class KeyedCall:
    """A key is scoped to the user and the route; the digest detects another body. A call of a
    source that is retired is refused."""

    user_id: int
    source_id: str
    route: str
    key: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """The first response: HTTP status and JSON. `is_replayed`: an earlier call did the work."""

    status: int
    body: bytes
    is_replayed: bool = False


class IdempotencyKeys:
    """Promise: of calls with the same key one does the work, and all get its response."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._failing_rows = FailingRows(metrics)
        self._queries = load("idempotency")

    async def run_once(
        self, call: KeyedCall, work: Callable[[Transaction], Awaitable[StoredResponse]]
    ) -> StoredResponse:
        """No key is kept if `work` raises, or if the commit fails.

        Raises `IdempotencyKeyReused` for another body, `ValueOutOfRange` if the database refuses a
        row (at the commit, too: a deferred constraint), `DatabaseUnavailable` if it fails one,
        `SourceSucceeded` or `SourceRevoked`.
        """
        try:
            # A foreign key is violated if a row that the call names is deleted meanwhile. The retry
            # finds it deleted.
            return await self._database.run(
                partial(self._run_once, call=call, work=work),
                retry_on=(ForeignKeyViolationError,),
            )
        except StatementError as error:
            match policy_of(error):
                case Policy.REFUSE:
                    raise problem_of(error) from error
                case Policy.ISOLATE:
                    self._failing_rows.report("call not done", error, route=call.route)
                    raise DatabaseUnavailable(
                        f"the database fails a row of the call (SQLSTATE {error.sqlstate})",
                        retry_after_s=FAILING_RETRY_AFTER_S,
                    ) from error
            raise

    async def _run_once(
        self,
        transaction: Transaction,
        *,
        call: KeyedCall,
        work: Callable[[Transaction], Awaitable[StoredResponse]],
    ) -> StoredResponse:
        names = (call.user_id, call.route, call.key)
        claimed = await transaction.fetch_row(
            self._queries["claim_key"], *names, call.body_sha256, call.source_id
        )
        if claimed is None:
            return await self._find_response(transaction, call)
        if claimed["is_retired"]:
            await check_retired(transaction, call.source_id)
        response = await work(transaction)
        await transaction.execute(
            self._queries["store_response"], *names, response.status, response.body
        )
        return response

    async def _find_response(self, transaction: Transaction, call: KeyedCall) -> StoredResponse:
        stored = await transaction.fetch_row(
            self._queries["find_response"], call.user_id, call.route, call.key
        )
        assert stored is not None  # noqa: S101 (the claim met this row; keys live for a day)
        if stored["body_sha256"] != call.body_sha256:
            raise IdempotencyKeyReused(
                "Idempotency-Key: this key was used for a call with another body"
            )
        return StoredResponse(stored["status"], stored["response"], is_replayed=True)
