"""The auditor: extends the audit's chain, and stores the refusals that were only counted.

The end of the chain is logged each time, so that a log kept elsewhere shows an audit that was
rewritten as a whole (`central/store/audit_chain.py`). The counts of a replica that is killed are
lost, of a few seconds at most.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from central.store.audit import AuditLog
from central.store.audit_chain import AuditChain
from kit.http.logs import fields
from kit.http.problems import Problem

logger = logging.getLogger(__name__)

PERIOD_S = 5.0


async def run(
    audit_log: AuditLog,
    chain: AuditChain,
    *,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    uniform: Callable[[float, float], float] = random.uniform,
) -> None:
    """Runs until cancelled, and stores the counts once more then."""
    try:
        while True:
            await sleep(PERIOD_S * uniform(0.9, 1.1))
            await run_once(audit_log, chain)
    finally:
        with suppress(Problem):
            await audit_log.store_counts()


async def run_once(audit_log: AuditLog, chain: AuditChain) -> None:
    """An unavailable database leaves the events unlinked and the counts in memory."""
    try:
        await audit_log.store_counts()
        end = await chain.extend()
    except Problem as problem:
        logger.warning("audit not extended", extra=fields(detail=problem.detail))
        return
    if end is not None:
        logger.info("audit extended", extra=fields(position=end.position, hash=end.hash.hex()))
