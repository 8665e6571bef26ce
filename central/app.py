"""Central's API as an aiohttp application: its routes, its middlewares, its OpenAPI document."""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from central import __version__
from central.api import (
    batches,
    bindings,
    bulk,
    executions,
    expired,
    leases,
    uris,
    workflows,
    writes,
)
from central.auth.authenticator import SCHEMES, AuthenticatedRoute, Authenticator
from central.examples import EXAMPLES
from central.metrics import Metrics
from central.middleware import (
    ConnectionAge,
    RequestMetrics,
    add_user_headers,
    audit,
    etag,
    release_slot,
    renewal_failures,
)
from central.wire.entries import MAX_BODY_BYTES
from kit.http.body_reader import BodyReader
from kit.http.openapi import openapi_document
from kit.http.routing import add_routes, problem_middleware

ROUTES: tuple[AuthenticatedRoute, ...] = (
    *executions.routes,
    *bulk.routes,
    *workflows.routes,
    *expired.routes,
    *uris.routes,
    *bindings.routes,
    *writes.routes,
    *batches.routes,
    *leases.routes,
)
_DESCRIPTION = (
    "The authority over execution metadata: authenticates, authorizes and applies the calls"
    " of sidecars. Each call carries the sidecar's signature."
)


def build_app(
    authenticator: Authenticator,
    metrics: Metrics,
    stores: Mapping[web.AppKey[Any], Any],
    *,
    connection_max_age_s: float,
    intake: BodyReader | None = None,
    clock: Callable[[], float] = time.perf_counter,
    uniform: Callable[[float, float], float] = random.uniform,
) -> web.Application:
    intake = intake or BodyReader()
    app = web.Application(
        middlewares=[
            intake.connections.middleware,
            RequestMetrics(metrics, clock).middleware,
            ConnectionAge(connection_max_age_s, clock, uniform).middleware,
            renewal_failures,
            problem_middleware,
            etag,
            release_slot,
            audit,
        ],
        client_max_size=MAX_BODY_BYTES,
    )
    for key, store in stores.items():
        app[key] = store
    add_routes(app, ROUTES, authenticator.authenticate, intake)
    app.on_response_prepare.append(add_user_headers)
    document = msgspec.json.encode(openapi())

    async def serve_openapi(_: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    app.router.add_get("/openapi.json", serve_openapi)
    return app


def openapi() -> dict[str, Any]:
    """The OpenAPI document of central's API."""
    return openapi_document(
        "Execution metadata, central",
        __version__,
        _DESCRIPTION,
        ROUTES,
        EXAMPLES,
        schemes=SCHEMES,
    )
