"""What a spool needs now and then, whether or not anybody writes."""

import asyncio
import logging
from contextlib import suppress

from kit.http.logs import fields
from sidecar.problems import SpoolUnavailable
from sidecar.spool.file import RETRY_AFTER_S
from sidecar.spool.spool import Spool

logger = logging.getLogger(__name__)

PERIOD_S = 60.0


async def run_maintenance(spool: Spool) -> None:
    """Forgets runs that are long over and gives the volume its space back.

    A volume in trouble is tried as often as callers are told to come again: for what waits on
    it, nobody else comes.
    """
    while True:
        for _ in range(int(PERIOD_S / RETRY_AFTER_S)):
            await asyncio.sleep(RETRY_AFTER_S)
            with suppress(SpoolUnavailable):  # the log says so, and `/readyz`
                await spool.retry_open()
        try:
            await spool.purge_bindings()
            await spool.vacuum()
        except SpoolUnavailable as problem:  # a volume in trouble is tried again, not fled from
            logger.warning("housekeeping put off", extra=fields(detail=problem.detail))
