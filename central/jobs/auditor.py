"""The auditor: extends the audit's chain, and stores the refusals that were only counted.

The end of the chain is logged each time, so that a log kept elsewhere shows an audit that was
rewritten as a whole (`central/store/audit.py`). The counts of a replica that is killed are
lost, of a few seconds at most.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from central.store.audit import Audit
from central.store.refusals import RefusalLog
from kit.http.logs import fields
from kit.http.problems import Problem

logger = logging.getLogger(__name__)

PERIOD_S = 5.0


async def run(
    refusal_log: RefusalLog,
    audit: Audit,
    *,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    uniform: Callable[[float, float], float] = random.uniform,
) -> None:
    """Runs until cancelled, and stores the counts once more then."""
    try:
        while True:
            await sleep(PERIOD_S * uniform(0.9, 1.1))
            await run_once(refusal_log, audit)
    finally:
        with suppress(Problem):
            await refusal_log.store_counts()


async def run_once(refusal_log: RefusalLog, audit: Audit) -> None:
    """An unavailable database leaves the events unlinked and the counts in memory."""
    try:
        await refusal_log.store_counts()
        end = await audit.extend()
    except Problem as problem:
        logger.warning("audit not extended", extra=fields(detail=problem.detail))
        return
    if end is not None:
        logger.info("audit extended", extra=fields(position=end.position, hash=end.hash.hex()))
