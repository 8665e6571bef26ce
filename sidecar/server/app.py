"""The local API as an aiohttp application."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from kit.http.body_reader import BodyReader
from kit.http.failed_calls import DESCRIBE_CALLER
from kit.http.openapi import add_openapi, openapi_document
from kit.http.routing import MIB, add_routes, measured, problem_middleware
from sidecar import __version__
from sidecar.api import (
    bulk,
    computing_units,
    costs,
    drop_in,
    executions,
    uris,
    workflows,
    writes,
)
from sidecar.api.services import (
    RUN_SCHEME,
    SERVICES,
    TOKEN,
    USER_ID,
    Services,
    call_context,
    describe_caller,
)
from sidecar.metrics import Metrics
from sidecar.server.local_guard import guard

ROUTES = (
    *executions.routes,
    *uris.routes,
    *costs.routes,
    *workflows.routes,
    *bulk.routes,
    *computing_units.routes,
    *writes.routes,
    *drop_in.routes,
)

_DESCRIPTION = (
    "Execution metadata for the computing unit of this pod. Every call carries the user's token, or"
    " one about a single execution its run token; problems of central are passed on as they are."
)


def build_app(
    services: Services, metrics: Metrics, body_reader: BodyReader | None = None
) -> web.Application:
    body_reader = body_reader or BodyReader()

    @web.middleware
    async def limit(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        request[USER_ID] = user_id = services.writes.counted_user(request.get(TOKEN, ""))
        if user_id is None:
            async with services.limits.unknown_call_slot(request.method):
                return await handler(request)
        with services.limits.call_slot(user_id, request.method):
            return await handler(request)

    def is_verified(request: web.Request) -> bool:
        """Whether central knows the token's user, be it since this request."""
        return services.writes.counted_user(request.get(TOKEN, "")) is not None

    metrics.requests.add_routes(ROUTES)
    middlewares = [
        body_reader.connections.middleware(is_verified),
        measured(metrics.requests),
        problem_middleware,
        guard,
        limit,
    ]
    app = web.Application(middlewares=middlewares, client_max_size=MIB)
    app[SERVICES] = services
    app[DESCRIBE_CALLER] = describe_caller
    add_routes(app, ROUTES, call_context, body_reader)
    add_openapi(app, openapi)
    return app


def openapi() -> dict[str, object]:
    """The OpenAPI document of the local API."""
    return openapi_document(
        "Computing-unit sidecar",
        __version__,
        _DESCRIPTION,
        ROUTES,
        other_problems="A problem of central, passed on as it is (see docs/problems.md)",
        schemes=RUN_SCHEME,
    )
