"""The local API as an aiohttp application."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from sidecar import __version__
from sidecar.examples import EXAMPLES
from sidecar.guard import TOKEN, guard
from sidecar.handlers import (
    boots,
    costs,
    drop_in,
    executions,
    expired,
    selections,
    uris,
    workflows,
    writes,
)
from sidecar.kit.bodies import Intake
from sidecar.kit.openapi import openapi_document
from sidecar.kit.routing import MIB, ROUTE, add_routes, answer_problems
from sidecar.metrics import Metrics
from sidecar.relayed import RELAYED
from sidecar.services import SERVICES, Services, admit

ROUTES = (
    *executions.ROUTES,
    *uris.ROUTES,
    *costs.ROUTES,
    *workflows.ROUTES,
    *selections.ROUTES,
    *boots.ROUTES,
    *expired.ROUTES,
    *writes.ROUTES,
    *drop_in.ROUTES,
)

_DESCRIPTION = (
    "Execution metadata for the computing unit of this pod. Every call carries the user's token;"
    " problems of central are passed on as they are."
)


def local_app(
    services: Services, metrics: Metrics, intake: Intake | None = None
) -> web.Application:
    intake = intake or Intake()

    @web.middleware
    async def count(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response = await handler(request)
        route = request.get(ROUTE, "none")  # the template: an unknown path is one label
        method = request.method if route != "none" else "none"
        metrics.http_requests.labels(route, method, response.status).inc()
        return response

    @web.middleware
    async def limit(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        user_id = services.writes.known_user(request.get(TOKEN, ""))
        with services.limits.call(user_id, request.method):
            return await handler(request)

    middlewares = [intake.connections.middleware, count, answer_problems, guard, limit]
    app = web.Application(middlewares=middlewares, client_max_size=MIB)
    app[SERVICES] = services
    add_routes(app, ROUTES, admit, intake)
    document = msgspec.json.encode(openapi())

    async def serve_openapi(_: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    app.router.add_get("/openapi.json", serve_openapi)
    return app


def openapi() -> dict[str, object]:
    """The OpenAPI document of the local API."""
    return openapi_document(
        "Computing-unit sidecar", __version__, _DESCRIPTION, ROUTES, EXAMPLES, RELAYED
    )
