"""The purger: deletes rows of ours past their retention, once an hour, in one replica."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

from central.store.retention import Retention
from kit.http.logs import fields
from kit.http.problems import Problem

logger = logging.getLogger(__name__)

PERIOD_S = 3600.0


async def run(
    retention: Retention,
    *,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    uniform: Callable[[float, float], float] = random.uniform,
) -> None:
    """Purges until cancelled. The first wait is a part of the period: replicas restart often."""
    while True:
        await sleep(PERIOD_S * uniform(0.1, 1.0))
        try:
            purged = await retention.purge()
        except Problem as problem:
            logger.warning("old rows not purged", extra=fields(detail=problem.detail))
            continue
        if any(purged.values()):
            logger.info("old rows purged", extra=fields(**purged))
