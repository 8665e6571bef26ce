"""Continuity: since when sidecars could renew their leases, as the whole service saw it.

Silence of a sidecar says that it is gone only while somebody was there to hear it. One row in
the database remembers since when that has been so, whichever replica it was: each replica says
every ninth of a lease that it serves (`beat`). The row begins anew
- when nobody said so for a third of a lease: central was down, or its database, or (which looks
  the same) the database's clock leapt. A shorter break cannot lapse a healthy lease, which has at
  least seven ninths of its time left when a break begins and is renewed at the first chance;
- when a replica had to fail a renewal: it was there, but did not serve.
A replica that starts, or one that ends while others serve, is no break: its sidecars find
another one within a second. A replica that cannot reach the database sheds its callers
(`Connection: close`), so that they do.
"""

from functools import partial

from central.store.database import Database, Transaction
from central.store.queries import load


def longest_break_s(lease_s: float) -> float:
    """So long may nobody say that renewals are served, and yet they were."""
    return lease_s / 3


class RenewalAvailability:
    """What this replica has to say of it. `beat` is the only one that writes."""

    def __init__(self, database: Database, lease_s: float) -> None:
        self._database = database
        self._longest_break_s = longest_break_s(lease_s)
        self._queries = load("renewal_availability")
        self._is_broken = False

    def broken(self) -> None:
        """A renewal could not be served."""
        self._is_broken = True

    async def beat(self) -> float:
        """Says that this replica serves. Answers for how many seconds renewals have been served.

        Raises `DatabaseUnavailable`.
        """
        is_broken, self._is_broken = self._is_broken, False
        try:
            return await self._database.run(partial(self._beat, is_broken=is_broken))
        except BaseException:
            self._is_broken = self._is_broken or is_broken
            raise

    async def _beat(self, transaction: Transaction, *, is_broken: bool) -> float:
        row = await transaction.fetch_row(self._queries["beat"], self._longest_break_s, is_broken)
        assert row is not None  # noqa: S101 (the statement always answers one row)
        uninterrupted_s: float = row["uninterrupted_s"]
        return uninterrupted_s
