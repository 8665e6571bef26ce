"""Boots at the sidecar: the one that came last is the one that is remembered."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from sidecar.boots import Boots
from sidecar.reads import Reads
from sidecar.spool.bindings import Boot
from sidecar.upstream.central_api import Central
from sidecar.wire import forwarded
from tests.unit.sidecar.spooling import Spools

CALLER = cast("Any", object())


class BootingCentral:
    """Decides at once, in the order of arrival; its answer to a boot may be long on its way."""

    def __init__(self) -> None:
        self.decided: list[str] = []
        self.has_decided = asyncio.Event()
        self.answers_slowly = {"first": asyncio.Event()}

    async def post(self, operation: str, target: str, body: bytes, *_: Any) -> SimpleNamespace:
        boot_id = msgspec.json.decode(body)["boot_id"]
        self.decided.append(boot_id)
        self.has_decided.set()
        if boot_id in self.answers_slowly:
            await self.answers_slowly[boot_id].wait()
        return SimpleNamespace(body=b'{"closed": []}')


async def test_a_boot_whose_answer_is_late_does_not_replace_the_one_after_it(
    spools: Spools,
) -> None:
    """A master dies while it boots; its successor's boot is answered first. Were the dead one's
    remembered, central would refuse every create as `boot-superseded`."""
    spool, central = await spools.open(), BootingCentral()
    reads = SimpleNamespace(invalidate=lambda *_: None)
    boots = Boots(spool, cast("Central", central), cast("Reads", reads))

    first = asyncio.create_task(boots.begin(2, forwarded.BootRequest("first"), None, CALLER))
    await central.has_decided.wait()
    second = asyncio.create_task(boots.begin(2, forwarded.BootRequest("second"), None, CALLER))
    await asyncio.wait({second}, timeout=0.05)
    central.answers_slowly["first"].set()
    await asyncio.gather(first, second)

    assert central.decided == ["first", "second"]
    assert spool.boot == Boot(2, "second")
