"""An HTTP proxy before central, of several replicas, some with a limit on the size of bodies."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from dev.latency import reset
from dev.ports import HOST

BATCHES = "/v1/batches"
_HOP_BY_HOP = {"connection", "content-encoding", "content-length", "date", "transfer-encoding"}


class Ingress:
    """Forwards requests. Each batch meets a replica by chance: one that limits it, or loses its
    response, or neither."""

    def __init__(self, central_url: str, chance: random.Random) -> None:
        self._central_url = central_url
        self._chance = chance
        self.url = ""
        self.max_body_bytes = 2**30
        self.limited_share = 0.0
        """How many of the batches meet the limit."""
        self.lost_share = 0.0
        """How many of the other batches' responses are lost after central has answered."""
        self.too_large_count = 0
        self.lost_count = 0

    async def forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        is_batch = request.path == BATCHES
        is_limited = is_batch and self._chance.random() < self.limited_share
        if is_limited and len(body) > self.max_body_bytes:
            self.too_large_count += 1
            return web.Response(status=413, text="<h1>Too Large</h1>", content_type="text/html")
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                self._central_url + request.raw_path,
                data=body or None,
                headers={k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP},
            ) as response,
        ):
            payload = await response.read()
        if is_batch and not is_limited and self._chance.random() < self.lost_share:
            self.lost_count += 1
            assert request.transport is not None
            reset(request.transport)
        headers = {k: v for k, v in response.headers.items() if k.lower() not in _HOP_BY_HOP}
        return web.Response(status=response.status, body=payload, headers=headers)


@asynccontextmanager
async def ingress_to(central_url: str, chance: random.Random) -> AsyncIterator[Ingress]:
    """An ingress that runs while the block does."""
    ingress = Ingress(central_url, chance)
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", ingress.forward)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        ingress.url = f"http://{HOST}:{runner.addresses[0][1]}"
        yield ingress
    finally:
        await runner.cleanup()
