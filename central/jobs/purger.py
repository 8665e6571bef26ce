"""The purge of old rows, beside the service: once an hour, by whichever replica comes first."""

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


async def run_purger(
    retention: Retention,
    *,
    sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
    uniform: Callable[[float, float], float] = random.uniform,
) -> None:
    """Until cancelled. The first round comes after a part of the period: replicas restart often."""
    while True:
        await sleep(PERIOD_S * uniform(0.1, 1.0))
        try:
            purged = await retention.purge()
        except Problem as problem:
            logger.warning("old rows not purged", extra=fields(detail=problem.detail))
            continue
        if any(purged.values()):
            logger.info("old rows purged", extra=fields(**purged))
