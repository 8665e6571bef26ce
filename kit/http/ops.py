"""The ops listener: liveness, readiness with reasons, metrics, status, and a page for eyes.

Readiness never depends on what is behind the service: an unready pod would be cut off from
callers that it can still serve.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import Metric

from kit.http.connection_limits import ConnectionLimiter, listening
from kit.http.page import DescribePage, add_page
from kit.http.routing import problem_middleware
from kit.http.settings import Address

CONNECTIONS_MAX = 64
"""Probes, scrapes and an operator need few."""

ReadinessCheck: TypeAlias = Callable[[], list[str]]
"""Returns why the service should get no new requests; an empty list means ready."""
Describe: TypeAlias = Callable[[], Mapping[str, Any]]


@asynccontextmanager
async def serve_ops(
    registry: CollectorRegistry,
    not_ready: ReadinessCheck,
    describe: Describe,
    describe_page: DescribePage,
    address: Address,
) -> AsyncIterator[None]:
    """The ops listener, for the block. Raises OSError for a taken port."""
    connections = ConnectionLimiter(CONNECTIONS_MAX)
    runner = web.AppRunner(ops_app(registry, not_ready, describe, describe_page, connections))
    async with listening(runner, address, connections):
        yield


class _Collected(CollectorRegistry):
    """A registry's metrics as they were when they were read."""

    def __init__(self, metrics: list[Metric]) -> None:
        super().__init__()
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics


def ops_app(
    registry: CollectorRegistry,
    not_ready: ReadinessCheck,
    describe: Describe,
    describe_page: DescribePage,
    connections: ConnectionLimiter,
) -> web.Application:
    async def livez(_: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readyz(_: web.Request) -> web.Response:
        reasons = not_ready()
        body = {"status": "not ready" if reasons else "ready", "reasons": reasons}
        return web.json_response(body, status=503 if reasons else 200)

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = exposition.choose_encoder(request.headers.get("Accept", ""))
        # Text of a thousand series takes 30 ms: in a thread, as calls would wait for it. The values
        # are read here, where they change.
        collected = _Collected(list(registry.collect()))
        body = await asyncio.to_thread(encode, collected)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def status(_: web.Request) -> web.Response:
        body = msgspec.json.encode(describe(), enc_hook=str)
        return web.Response(body=body, content_type="application/json")

    app = web.Application(middlewares=[connections.middleware(), problem_middleware])
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/status", status)
    add_page(app, describe_page)
    return app
