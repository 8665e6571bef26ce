"""The spool's periodic work, whether or not anybody writes."""

import asyncio
import logging
from contextlib import suppress

from kit.http.logs import fields
from sidecar.problems import SpoolUnavailable
from sidecar.spool.capacity import RETRY_AFTER_S
from sidecar.spool.spool import Spool

logger = logging.getLogger(__name__)

PERIOD_S = 20.0


async def run_maintenance(spool: Spool) -> None:
    """Purges bindings and returns free space, until it is cancelled.

    An unusable volume is tried as often as callers are asked to retry: without writes, nothing
    else would open it again, and what waits on it would not be delivered. A full one gets back what
    settled writes have freed as often.
    """
    while True:
        for _ in range(int(PERIOD_S / RETRY_AFTER_S)):
            await asyncio.sleep(RETRY_AFTER_S)
            with suppress(SpoolUnavailable):  # logged and shown by `/readyz` already
                await spool.retry_open()
                if spool.disk_full:
                    await spool.vacuum()
        try:
            await spool.bindings.purge()
            await spool.vacuum()
        except SpoolUnavailable as problem:  # retried in the next period
            logger.warning("spool maintenance put off", extra=fields(detail=problem.detail))
