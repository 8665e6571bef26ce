"""Boots: the computing unit's master process says that it is a new one.

Central ends the runs of the masters before it and answers which. The boot is kept in the spool
before that is answered, and goes with every binding from then on; so a process of an earlier
boot that is still about can create nothing any more.

Boots are told one after the other, in the order in which they came: of two under way at once
(a master that died while it booted, and its successor) the later must be the one that both
central and the spool know as the current one.
"""

import asyncio

import msgspec

from sidecar.reads import Reads
from sidecar.spool.bindings import Boot
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import Central
from sidecar.upstream.client import CallContext
from sidecar.wire import forwarded

_closed = msgspec.json.Decoder(forwarded.ClosedExecutions)


class Boots:
    def __init__(self, spool: Spool, central: Central, reads: Reads) -> None:
        self._spool = spool
        self._central = central
        self._reads = reads
        self._turn = asyncio.Lock()

    async def begin(
        self,
        unit_id: int,
        request: forwarded.BootRequest,
        idempotency_key: str | None,
        context: CallContext,
    ) -> forwarded.ClosedExecutions:
        """Raises central's problems. The same boot again gets the same answer."""
        target, body = f"/v1/computing-units/{unit_id}/boots", msgspec.json.encode(request)
        async with self._turn:
            reply = await self._central.post("boot", target, body, idempotency_key, context)
            answer = _closed.decode(reply.body)
            await self._spool.record_boot(Boot(unit_id, request.boot_id), answer.closed)
        self._reads.invalidate(None, answer.closed)
        return answer
