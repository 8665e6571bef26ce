"""Creates that an earlier life of this sidecar sent and never heard of.

Central made and bound the execution, and the process died before it kept the binding; the
computing unit never got the answer. Such a run would stay READY until its lease lapses. A
computing unit that is still there repeats its create with the same idempotency key, and gets
that very execution: it has a grace for it.
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
"""After the start: a client that lost its sidecar asks again every second or so."""
BACKOFF_BASE_S = 0.5
BACKOFF_LIMIT_S = 10.0


class BindingsApi(Protocol):
    """What is asked of central."""

    async def open_bindings(self, *, min_age_s: float) -> list[int]: ...

    async def abandon(self, execution_ids: Sequence[int]) -> list[int]: ...


async def close_orphaned(
    spool: Spool,
    central: BindingsApi,
    *,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
) -> list[int]:
    """Ends what was bound before now and is not in the spool; answers the ids.

    For the start of a process, before it can create anything itself, and only if the memory of
    its spool is whole. Asks until central has answered.
    """
    began_at = monotonic()
    await sleep(GRACE_S)
    backoff = Backoff(BACKOFF_BASE_S, BACKOFF_LIMIT_S)
    while True:
        try:
            listed = await central.open_bindings(min_age_s=monotonic() - began_at)
            unknown = [eid for eid in listed if spool.bindings.binding(eid) is None]
            closed = await central.abandon(unknown) if unknown else []
        except (CentralUnavailable, UpstreamProblem) as problem:
            if backoff.failure_count == 0:
                logger.info("abandoned creates not asked for", extra=fields(detail=problem.detail))
            await sleep(backoff.next_s())
            continue
        if closed:
            logger.warning("abandoned creates ended", extra=fields(execution_ids=closed))
        return closed
