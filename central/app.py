"""Central's API as an aiohttp application."""

import hashlib
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, TypeAlias

import msgspec
from aiohttp import web
from cachetools import TTLCache

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
from central.auth.authenticator import (
    MUTATING_CALLER,
    RELEASE_SLOT,
    SCHEMES,
    USER,
    AuthenticatedRoute,
    Authenticator,
)
from central.examples import EXAMPLES
from central.metrics import Metrics
from central.problems import DatabaseUnavailable
from central.store.audit import AuditLog, Refusal
from central.wire.entries import MAX_BODY_BYTES
from kit.http.body_reader import BodyReader
from kit.http.openapi import openapi_document
from kit.http.problems import Problem
from kit.http.routing import ROUTE, add_routes, problem_middleware

ROUTES: tuple[AuthenticatedRoute, ...] = (
    *executions.ROUTES,
    *bulk.ROUTES,
    *workflows.ROUTES,
    *expired.ROUTES,
    *uris.ROUTES,
    *bindings.ROUTES,
    *writes.ROUTES,
    *batches.ROUTES,
    *leases.ROUTES,
)

REFUSALS: web.AppKey[AuditLog] = web.AppKey("refusals", AuditLog)

_ID = re.compile(r"[0-9]{1,10}", re.ASCII)
_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]
_DESCRIPTION = (
    "The authority over execution metadata: verifies, authorizes, applies, answers."
    " Called by sidecars; each call carries the sidecar's own signature."
)
CONNECTIONS_REMEMBERED = 10_000
AGE_JITTER = 0.2
"""Connections of one moment end over 20 % of their age, so that load spreads without storms."""


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
            metrics_middleware(metrics, clock),
            connection_age(connection_max_age_s, clock, uniform),
            renewal_failures,
            problem_middleware,
            _naming_answers,
            release_slot,
            audit_refusals,
        ],
        client_max_size=MAX_BODY_BYTES,
    )
    for key, store in stores.items():
        app[key] = store
    add_routes(app, ROUTES, authenticator.authenticate, intake)
    app.on_response_prepare.append(_name_user)
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


async def _name_user(request: web.Request, response: web.StreamResponse) -> None:
    """Tells a sidecar whose token it has just sent, and until when it is good."""
    user = request.get(USER)
    if user is not None:
        response.headers["X-User-Id"] = str(user.user_id)
        response.headers["X-Token-Expires-At"] = str(int(user.expires_at))


@web.middleware
async def release_slot(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Lets the next call of the same caller go to work."""
    try:
        return await handler(request)
    finally:
        end = request.get(RELEASE_SLOT)
        if end is not None:
            end()


@web.middleware
async def audit_refusals(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Keeps what a source tried to change and was refused, whichever route it tried.

    The entries of batches have their refusals kept with the batch; this is for whole calls.
    """
    try:
        return await handler(request)
    except Problem as problem:
        changer, store = request.get(MUTATING_CALLER), request.app.get(REFUSALS)
        if changer is not None and store is not None:
            execution_id = request.match_info.get("execution_id", "")
            refusal = Refusal(
                changer.user_id,
                int(execution_id) if _ID.fullmatch(execution_id) else None,
                f"{request.method} {request.get(ROUTE, '')}",
                problem,
            )
            # The caller is told why it was refused whether that can be kept or not.
            with suppress(DatabaseUnavailable):
                await store.note(changer.source_id, refusal)
        raise


def metrics_middleware(metrics: Metrics, clock: Callable[[], float]) -> Any:
    @web.middleware
    async def count(request: web.Request, handler: _Handler) -> web.StreamResponse:
        started_at = clock()
        response = await handler(request)
        route = request.get(ROUTE, "none")  # the template: an unknown path is one label
        method = request.method if route != "none" else "none"
        metrics.request(route, method, response.status, clock() - started_at)
        return response

    return count


@web.middleware
async def renewal_failures(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """The closer must not take our silence for the sidecar's, whatever kept us from answering.

    What we refuse (4xx) is no failure: else any caller could keep the closer from its work.
    """
    response = await handler(request)
    is_renewal = request.get(ROUTE) == leases.RENEWALS_PATH
    if is_renewal and response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        request.app[leases.LEASES].continuity.broken()
    return response


@web.middleware
async def _naming_answers(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Every read's answer has an ETag; a caller who names it hears that nothing has changed.

    The query is made all the same, for it is what judges the caller; sidecars are spared the
    transfer and the decoding.
    """
    response = await handler(request)
    if request.method != "GET" or response.status != 200 or not isinstance(response, web.Response):
        return response
    body = response.body
    if not isinstance(body, bytes):
        return response
    etag = hashlib.blake2b(body, digest_size=12).hexdigest()
    response.etag = etag
    if any(named.value == etag for named in request.if_none_match or ()):
        return web.Response(status=304, headers={"ETag": f'"{etag}"'})
    return response


def connection_age(
    max_age_s: float, clock: Callable[[], float], uniform: Callable[[float, float], float]
) -> Any:
    """Sidecars keep connections open for ever; new replicas would get no load."""
    # By the caller's address and port: aiohttp's connections can carry nothing of ours. A port
    # that comes again within the time ends a little early, which does no harm.
    ends_at: TTLCache[Any, float] = TTLCache(CONNECTIONS_REMEMBERED, 2 * max_age_s)

    @web.middleware
    async def end_when_old(request: web.Request, handler: _Handler) -> web.StreamResponse:
        response = await handler(request)
        now = clock()
        age_s = max_age_s * uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
        is_old = now >= ends_at.setdefault(request.get_extra_info("peername"), now + age_s)
        # A replica that cannot serve sheds its callers, so that they find another.
        if is_old or response.status == HTTPStatus.SERVICE_UNAVAILABLE:
            response.force_close()
        return response

    return end_when_old
