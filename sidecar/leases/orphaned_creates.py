"""Closes executions whose create response was lost when an earlier process of this sidecar ended.

Central created and bound the execution, but the process ended before it stored the binding, so
the computing unit never got the response. Without this the run would stay READY until its lease
lapses. A unit that is still there repeats its create with the same idempotency key and gets that
very execution: the grace period is for that.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from kit.http.logs import fields
from sidecar.problems import CentralUnavailable, UpstreamProblem
from sidecar.spool.spool import Spool
from sidecar.upstream.resilience import Backoff

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""A client that lost its sidecar retries every second or so."""
BACKOFF_BASE_S = 0.5
BACKOFF_LIMIT_S = 10.0


class BindingsApi(Protocol):
    """Central's calls about this source's bindings."""

    async def open_bindings(self, *, min_age_s: float) -> list[int]: ...

    async def abandon(self, execution_ids: Sequence[int]) -> list[int]: ...


class OrphanedCreates:
    """Those from before this object was made. `close` runs once per process, and closes nothing
    while the spool may lack bindings: an execution that it does not know may be running."""

    def __init__(
        self,
        spool: Spool,
        central: BindingsApi,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    ) -> None:
        self._spool = spool
        self._central = central
        self._monotonic = monotonic
        self._sleep = sleep
        self._started_at = monotonic()

    async def close(self) -> list[int]:
        """Closes what was bound before and is unknown to the spool. Returns the closed ids.

        Retries until central has answered.
        """
        await self._sleep(GRACE_S)
        backoff = Backoff(BACKOFF_BASE_S, BACKOFF_LIMIT_S)
        while True:
            try:
                age_s = self._monotonic() - self._started_at
                bound = await self._central.open_bindings(min_age_s=age_s)
                bindings = self._spool.bindings
                if not bindings.is_complete:
                    return []
                unknown = [eid for eid in bound if bindings.binding(eid) is None]
                closed = await self._central.abandon(unknown) if unknown else []
            except (CentralUnavailable, UpstreamProblem) as problem:
                if backoff.failure_count == 0:
                    logger.info("orphaned creates not checked", extra=fields(detail=problem.detail))
                await self._sleep(backoff.next_s())
                continue
            if closed:
                logger.warning("orphaned creates closed", extra=fields(execution_ids=closed))
            return closed
