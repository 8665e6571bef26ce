"""Boots at the sidecar: the last one registered is the current one."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from sidecar.delivery.loop import Delivery
from sidecar.forwarded import ForwardedCalls
from sidecar.reads import Reads
from sidecar.spool.bindings import Boot
from sidecar.upstream.central_api import Central
from sidecar.upstream.client import CallContext
from sidecar.wire import forwarded
from tests.unit.sidecar.spool_fixtures import Spools

CALLER = CallContext(user_id=1)


class BootingCentral:
    """Applies boots at once, in the order of arrival; the response to one may be delayed."""

    def __init__(self) -> None:
        self.applied: list[str] = []
        self.has_applied = asyncio.Event()
        self.delayed = {"first": asyncio.Event()}

    async def identify(self, context: CallContext) -> int:
        return 1

    async def post(self, operation: str, target: str, body: bytes, *_: Any) -> SimpleNamespace:
        boot_id = msgspec.json.decode(body)["boot_id"]
        self.applied.append(boot_id)
        self.has_applied.set()
        if boot_id in self.delayed:
            await self.delayed[boot_id].wait()
        return SimpleNamespace(body=b'{"closed": []}')


async def test_a_boot_with_a_delayed_response_does_not_replace_its_successor(
    spools: Spools,
) -> None:
    """A master dies while it boots, and its successor's response comes first. If the spool kept
    the dead one's boot, central would refuse every create as `boot-superseded`."""
    spool, central = await spools.open(), BootingCentral()
    reads = SimpleNamespace(invalidate=lambda *_: None)
    calls = ForwardedCalls(
        spool,
        cast("Delivery", None),
        cast("Central", central),
        cast("Reads", reads),
        central.identify,
    )

    def register(boot_id: str) -> "asyncio.Task[forwarded.ClosedExecutions]":
        request = forwarded.BootRequest(boot_id)
        return asyncio.create_task(calls.register_boot(2, request, None, CALLER))

    first = register("first")
    await central.has_applied.wait()
    second = register("second")
    await asyncio.wait({second}, timeout=0.05)
    central.delayed["first"].set()
    await asyncio.gather(first, second)

    assert central.applied == ["first", "second"]
    assert spool.bindings.boot == Boot(2, "second")
