"""Single-call writes: one entry each, committed before the response.

The user must be the execution's own, and the source must be bound to it. The entry goes through
the same facts, fold and statement as a batch (`store/entries.py`), with two differences: a locked
row is waited for, up to the role's lock timeout, because the caller has no queue for deferred
entries; and the idempotency key of the call takes the place of the cursor.
"""

import msgspec

from central.auth.authenticator import Writer
from central.auth.source_assertions import digest
from central.domain.fold import EntryOutcome
from central.metrics import Metrics
from central.problems import DatabaseUnavailable, NotTheExecutionsUser
from central.store.access import execution_not_found
from central.store.batches import count_outcomes
from central.store.database import Database, Transaction
from central.store.entries import EntryStore
from central.store.idempotency import IdempotencyKeys, KeyedCall, StoredResponse
from central.store.queries import load
from central.wire.calls import Committed
from central.wire.entries import AnyEntry

LOCKED_RETRY_AFTER_S = 1.0  # transactions that hold such a lock are short


class Writes:
    """Promise: a write with a response is committed; a refused one changed nothing."""

    def __init__(self, database: Database, entry_store: EntryStore, metrics: Metrics) -> None:
        self._database = database
        self._entry_store = entry_store
        self._metrics = metrics
        self._keys = IdempotencyKeys(database, metrics)
        self._queries = load("writes")

    async def apply(
        self, writer: Writer, route: str, body: bytes, entry: AnyEntry
    ) -> StoredResponse:
        """`Committed`, or what `delete_uris` removed; a repeated call gets the first response.

        `route` is method and path with ids, so that a key used for another execution is another
        key. Raises the problem for which the entry is refused.
        """
        call = KeyedCall(
            writer.user.user_id, writer.source_id, route, writer.idempotency_key, digest(body)
        )
        outcomes: list[EntryOutcome] = []

        async def work(transaction: Transaction) -> StoredResponse:
            outcomes[:] = [await self._apply(transaction, writer, entry)]
            (outcome,) = outcomes
            if outcome.problem is not None:
                raise outcome.problem
            return StoredResponse(200, msgspec.json.encode(outcome.removed or Committed()))

        try:
            return await self._keys.run_once(call, work)
        finally:
            count_outcomes(self._metrics, outcomes)

    async def _apply(
        self, transaction: Transaction, writer: Writer, entry: AnyEntry
    ) -> EntryOutcome:
        user, execution_id = writer.user, entry.execution_id
        known = await transaction.fetch_row(
            self._queries["execution_user"], execution_id, user.user_id, user.reads_everything
        )
        if known is None:
            raise execution_not_found(execution_id)
        if known["user_id"] != user.user_id:
            raise NotTheExecutionsUser("only the execution's own user may write to it")
        # `isolate_failures`: a value that the database refuses is an outcome, not an error.
        (outcome,), _ = await self._entry_store.apply(
            transaction,
            writer.source_id,
            [entry],
            entry.made_at_ms,
            isolate_failures=True,
            wait_for_lock=True,
            unit_id=writer.workload.enforced_unit_id,
        )
        if outcome.kind == "deferred":
            raise DatabaseUnavailable(
                "the execution's row is locked, or the database fails the entry",
                retry_after_s=LOCKED_RETRY_AFTER_S,
            )
        return outcome
