"""Sources: the keys of sidecars, how one replaces another, and how an operator ends one.

What certificate a source was first used with moves along (`central/auth/source_certificates.py`).

## A key is retired

    in use --succeed--> retired: its successor took what it held --revoke--> retired and revoked
       +--revoke-----------------------------------------------------------> retired and revoked

A retired key binds, creates and boots nothing: whoever claims an idempotency key asks in the same
statement whether its source is retired. Calls without such a key find nothing that belongs to a
replaced key, and ask only then (`check_succeeded`): a batch that finds no cursor, a lease or a run
that is not bound. So no other call pays for it.

## Succession

One transaction moves the unrevoked bindings, the leases, the boots, the ends, the cursors and the
stored responses to the new key. A batch that was applied under the old key and is sent again under
the new one meets its cursor, and gets the stored response: exactly once holds through a rotation.
Responses to other users than those of the moved bindings stay behind: a repeat of such a call under
the new key, which is a deletion or a boot, is made anew.

The key's lock excludes all calls with an idempotency key, and first batches of an epoch; the locks
of the cursors exclude other batches. So a batch in progress is either applied before, and its
cursor moves with its response, or it finds no cursor afterwards and is refused as a whole. It is
never refused per entry: the sidecar would settle these.

The sidecar keeps both keys until it has the response, and repeats the call until then. A repeated
call finds the succession and gets the same response. So whenever either side dies, one of the two
keys works, and the sidecar learns which by asking.

## Revocation

A revocation reaches the keys that came after the revoked one (`lock_line`), and a revoked key gets
no successor: both take the key's lock. That lock waits for calls in progress, which the holder of
the key may prolong. So the key is marked first, in a transaction that waits for none of them: from
its commit on the key begins nothing.
"""

from functools import partial

import asyncpg
from cachetools import LRUCache

from central.domain.callers import UNRESTRICTED, Workload
from central.problems import (
    SourceNotBound,
    SourceRevoked,
    SourceSucceeded,
    SuccessorInUse,
    WrongComputingUnit,
)
from central.store.database import Database, Transaction
from central.store.queries import load

MAX_BOUND_SOURCES = 10_000


class Sources:
    """Promise: of a key and its successor exactly one is accepted, whatever is lost on the way."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = load("sources")
        self._bound: LRUCache[str, bool] = LRUCache(MAX_BOUND_SOURCES)

    async def is_bound(self, source_id: str) -> bool:
        """Whether it was ever bound to something: anyone can make keys.

        Asks the database until it is: a binding is not taken back by being revoked.
        """
        if source_id in self._bound:
            return True
        rows = await self._database.read(self._queries["is_bound_source"], source_id)
        if rows[0]["is_bound"]:
            self._bound[source_id] = True
        return bool(rows[0]["is_bound"])

    async def certificate(self, source_id: str, shown: str | None, *, has_user: bool) -> str | None:
        """The certificate identity that the source is pinned to; None if it is not.

        `shown` is pinned if the source has none yet and is bound, or if a user calls.
        """
        if shown is not None:
            pin = self._queries["pin_certificate"]
            rows = await self._database.execute_returning(pin, source_id, shown, has_user)
            if rows:
                return str(rows[0]["identity"])
        # Also after a pin without a row: another call may have been the first at the same time.
        rows = await self._database.read(self._queries["pinned_certificate"], source_id)
        return str(rows[0]["identity"]) if rows else None

    async def forget_certificate(self, source_id: str) -> str | None:
        """Unpins the source; the identity that it had. Replicas notice within a minute."""
        rows = await self._database.execute_returning(
            self._queries["forget_certificate"], source_id
        )
        return str(rows[0]["identity"]) if rows else None

    async def succeed(
        self, source_id: str, successor_id: str, workload: Workload = UNRESTRICTED
    ) -> None:
        """Moves what the source holds to its successor. Both keys must have signed the call.

        Raises `SourceSucceeded` if it has another successor, `SourceRevoked`, `SourceNotBound`,
        `SuccessorInUse` or `WrongComputingUnit`.
        """
        work = partial(
            self._succeed, source_id=source_id, successor_id=successor_id, workload=workload
        )
        # A revocation marks the key without its lock, and may come between the check and the row.
        await self._database.run(work, retry_on=(asyncpg.UniqueViolationError,))

    async def _succeed(
        self, transaction: Transaction, *, source_id: str, successor_id: str, workload: Workload
    ) -> None:
        await _lock(transaction, source_id)
        await _lock(transaction, successor_id)
        retired = await _find_retired(transaction, source_id)
        if retired is not None:
            if retired["successor_id"] == successor_id and not retired["is_revoked"]:
                return
            raise _problem_of(retired)
        facts = await transaction.fetch_row(
            self._queries["succession_facts"], source_id, successor_id, workload.enforced_unit_id
        )
        assert facts is not None  # noqa: S101 (the statement returns one row)
        if not facts["has_bindings"]:
            raise SourceNotBound("only a key with a binding that is not revoked can be replaced")
        if facts["has_other_units"]:
            raise WrongComputingUnit(
                "the key is bound to executions of another unit than that of the call's pod"
            )
        if facts["is_used"] or source_id == successor_id:
            raise SuccessorInUse("the new key must be one that has made no call")
        await transaction.execute(self._queries["lock_cursors"], source_id)
        await transaction.execute(self._queries["succeed"], source_id, successor_id)


async def check_retired(transaction: Transaction, source_id: str) -> None:
    """Raises `SourceRevoked` or `SourceSucceeded` for a source that may not act any more.

    Only for a call that the source has signed: its successor is named to nobody else.
    """
    retired = await _find_retired(transaction, source_id)
    if retired is not None:
        raise _problem_of(retired)


async def check_succeeded(transaction: Transaction, source_id: str) -> None:
    """As above, for a replaced key alone: what a revoked one asks about is revoked by itself."""
    retired = await _find_retired(transaction, source_id)
    if retired is not None and not retired["is_revoked"]:
        raise _problem_of(retired)


async def lock_line(transaction: Transaction, source_id: str) -> list[str]:
    """The key and those that came after it. None of them rotates, binds or boots until the
    transaction ends, and what they did before is seen by its next statement."""
    queries = load("sources")
    line: list[str] = []
    key: str | None = source_id
    while key is not None:
        line.append(key)
        await _lock(transaction, key)
        row = await transaction.fetch_row(queries["find_successor"], key)
        assert row is not None  # noqa: S101 (the statement returns one row)
        key = row["successor_id"]
    return line


async def mark_revoked(transaction: Transaction, source_id: str, reason: str) -> None:
    """The key and those that came after it begin nothing from the commit on. Their bindings are
    the caller's to revoke."""
    queries = load("sources")
    await transaction.execute(queries["mark_revoked"], source_id, reason)


async def _lock(transaction: Transaction, source_id: str) -> None:
    queries = load("sources")
    await transaction.execute(queries["lock_source"], source_id)


async def _find_retired(transaction: Transaction, source_id: str) -> asyncpg.Record | None:
    queries = load("sources")
    return await transaction.fetch_row(queries["find_retired"], source_id)


def _problem_of(retired: asyncpg.Record) -> SourceRevoked | SourceSucceeded:
    if retired["is_revoked"]:
        return SourceRevoked("this key was revoked by an operator")
    successor_id = retired["successor_id"]
    return SourceSucceeded(
        f"this key was replaced by {successor_id}: sign with that one", successor_id=successor_id
    )
