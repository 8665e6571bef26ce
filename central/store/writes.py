"""Single-call writes: what a batch of one entry does, for a caller who waits.

The user's token and the sidecar's binding must both allow it: the user is the execution's
own, and the source is bound to it. The same fold judges the entry, so a write means the same
whichever way it comes. The caller has no queue that a deferred entry could wait in, so a row
that someone else has locked is waited for, as long as the role's lock timeout lets it. There
is no cursor: the idempotency key of the call takes its place.
"""

import msgspec

from central.auth.authenticator import Writer
from central.auth.source_assertions import digest
from central.domain.fold import Verdict
from central.metrics import Metrics
from central.problems import DatabaseUnavailable, NotTheExecutionsUser
from central.store.batches import count_verdicts
from central.store.database import Database, Transaction
from central.store.entries import EntryStore
from central.store.executions import execution_not_found
from central.store.idempotency import IdempotencyKeys, KeyedCall, StoredAnswer
from central.store.queries import load
from central.wire.calls import Committed
from central.wire.entries import AnyEntry

LOCKED_RETRY_AFTER_S = 1.0  # whoever holds the row is in the middle of a short transaction


class Writes:
    """Promise: a write that is answered is committed; one that is refused changed nothing."""

    def __init__(self, database: Database, rows: EntryStore, metrics: Metrics) -> None:
        self._database = database
        self._rows = rows
        self._metrics = metrics
        self._keys = IdempotencyKeys(database)
        self._queries = load("writes")

    async def apply(self, writer: Writer, route: str, body: bytes, entry: AnyEntry) -> StoredAnswer:
        """`Committed`, or what `delete_uris` removed; a repeat gets the first answer.

        `route` is method and path with the ids in it: used for another execution, a key is
        another key. Raises the problem for which the entry is refused.
        """
        call = KeyedCall(writer.user.user_id, route, writer.idempotency_key, digest(body))
        verdicts: list[Verdict] = []

        async def work(transaction: Transaction) -> StoredAnswer:
            verdicts[:] = [await self._apply(transaction, writer, entry)]
            (verdict,) = verdicts
            if verdict.problem is not None:
                raise verdict.problem
            return StoredAnswer(200, msgspec.json.encode(verdict.removed or Committed()))

        try:
            return await self._keys.once(call, work)
        finally:
            count_verdicts(self._metrics, verdicts)

    async def _apply(self, transaction: Transaction, writer: Writer, entry: AnyEntry) -> Verdict:
        user, execution_id = writer.user, entry.execution_id
        known = await transaction.fetch_row(
            self._queries["execution_user"], execution_id, user.user_id, user.reads_everything
        )
        if known is None:
            raise execution_not_found(execution_id)
        if known["user_id"] != user.user_id:
            raise NotTheExecutionsUser("only the execution's own user may write to it")
        # `alone`, so that a value which the database refuses is an outcome and not an error.
        (verdict,), _ = await self._rows.apply(
            transaction,
            writer.source_id,
            [entry],
            entry.made_at_ms,
            alone=True,
            wait=True,
            unit_id=writer.workload.enforced_unit_id,
        )
        if verdict.outcome == "deferred":
            raise DatabaseUnavailable(
                "the execution's row is locked", retry_after_s=LOCKED_RETRY_AFTER_S
            )
        return verdict
