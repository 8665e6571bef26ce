"""Closings: runs ended for those who cannot end them themselves.

The FAILED is provisional (`central/domain/fold.py`): the first terminal status of a bound source
takes its place. Whoever closes has locked the rows and found them open; the reason is kept in
`cu_metadata.terminal_statuses` and told in the log, once the caller has committed.
"""

import logging
from collections.abc import Mapping
from enum import StrEnum
from functools import partial

from central.metrics import Metrics
from central.store.database import Transaction
from central.store.queries import load
from kit.http.logs import fields

logger = logging.getLogger(__name__)


class Reason(StrEnum):
    """Why an execution was closed."""

    LEASE_LAPSED = "lease-lapsed"
    SUPERSEDED_BOOT = "superseded-boot"
    UNIT_TERMINATED = "unit-terminated"
    ABANDONED_CREATE = "abandoned-create"
    UNIT_GONE = "unit-gone"
    DEBRIS = "debris"


class Closings:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        metrics.init_labels(closings=map(str, Reason))
        self._queries = load("close_executions")

    async def close(self, transaction: Transaction, reasons: Mapping[int, Reason]) -> None:
        """Ends executions that this transaction has locked and found open."""
        if reasons:
            query = self._queries["close_executions"]
            await transaction.execute(query, list(reasons), [str(r) for r in reasons.values()])
            transaction.after_commit(partial(self._tell, reasons))

    def _tell(self, reasons: Mapping[int, Reason]) -> None:
        for execution_id, reason in reasons.items():
            self._metrics.closed(reason)
            logger.warning(
                "execution closed", extra=fields(execution_id=execution_id, reason=str(reason))
            )
