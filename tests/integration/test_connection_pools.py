"""Renewals have a connection pool of their own, in a sidecar built as for `serve`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sidecar.lifecycle import build_sidecar
from sidecar.settings import Settings
from sidecar.spool.entry import Batch
from sidecar.upstream.central_api import Central
from sidecar.upstream.client import CONCURRENT_CALLS_PER_USER, CallContext


class StuckCentral:
    """Renews leases at once, and never responds to anything else."""

    def __init__(self) -> None:
        self.waiting = asyncio.Semaphore(0)
        self.may_respond = asyncio.Event()

    async def handle(self, request: web.Request) -> web.Response:
        await request.read()
        if request.path == "/v1/lease-renewals":
            return web.json_response({"lease_s": 90.0, "lost": []})
        self.waiting.release()
        await self.may_respond.wait()
        return web.json_response({})


@pytest.fixture
async def stuck() -> AsyncIterator[tuple[StuckCentral, str]]:
    central, app = StuckCentral(), web.Application()
    app.router.add_route("*", "/{path:.*}", central.handle)
    async with TestServer(app) as server:
        yield central, str(server.make_url(""))


def read(central: Central) -> asyncio.Task[object]:
    return asyncio.create_task(central.read("row", "/v1/executions/1", CallContext(token="t")))


def deliver(central: Central) -> asyncio.Task[object]:
    return asyncio.create_task(central.deliver(Batch("e" * 32, 1, "d", ()), 0))


@pytest.mark.parametrize("start", [read, deliver])
async def test_a_renewal_succeeds_while_other_calls_hang(
    stuck: tuple[StuckCentral, str],
    tmp_path: Path,
    start: Callable[[Central], asyncio.Task[object]],
) -> None:
    central, url = stuck
    settings = Settings.from_environment(
        {"SIDECAR_CENTRAL_URL": url, "SIDECAR_SPOOL_DIR": str(tmp_path)}
    )
    async with build_sidecar(settings) as sidecar, asyncio.timeout(30):
        calls = [start(sidecar.central) for _ in range(CONCURRENT_CALLS_PER_USER)]
        for _ in calls:
            await central.waiting.acquire()

        renewed = await asyncio.wait_for(sidecar.central.renew_leases([1]), 5)

        central.may_respond.set()
        await asyncio.gather(*calls, return_exceptions=True)

    assert (renewed.lease_s, renewed.lost) == (90.0, [])
