"""Middlewares of central's API, each independent of the routes that it wraps.

Outermost first, as `app.py` installs them: (kit) request metrics, connection age, renewal failures,
(kit) problem documents, ETags, concurrency slots, refusals. Those before the problem documents see
responses only; those after them also see the `Problem` that is raised.
"""

import hashlib
import random
import re
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeAlias

from aiohttp import web
from cachetools import LRUCache

from central.api import leases
from central.auth.authenticator import MUTATING_CALLER, RELEASE_SLOT, USER
from central.store.refusals import Refusal, RefusalLog
from kit.http.problems import Problem
from kit.http.routing import ROUTE

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

REFUSAL_LOG: web.AppKey[RefusalLog] = web.AppKey("refusal_log", RefusalLog)

MAX_TRACKED_CONNECTIONS = 10_000
AGE_JITTER = 0.2
"""Connections that opened together close over 20 % of their age, not all at once."""

_ID = re.compile(r"[0-9]{1,10}", re.ASCII)


class ConnectionAge:
    """Closes connections that are older than `max_age_s`, with jitter.

    Sidecars keep their connections open, so that new replicas would get no load otherwise.
    """

    def __init__(
        self,
        max_age_s: float,
        clock: Callable[[], float] = time.perf_counter,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._max_age_s = max_age_s
        self._clock = clock
        self._uniform = uniform
        # By the peer's address and port, as aiohttp's connections cannot carry our data. A port
        # that is reused closes once too early, which is harmless. Never forgotten for its age, or a
        # connection that is silent for long would begin anew, and outlive its certificate.
        self._close_at: LRUCache[Any, float] = LRUCache(MAX_TRACKED_CONNECTIONS)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        now = self._clock()
        age_s = self._max_age_s * self._uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
        peer = request.get_extra_info("peername")
        is_old = now >= self._close_at.setdefault(peer, now + age_s)
        if is_old:
            self._close_at.pop(peer, None)
        # A replica that cannot serve closes its connections, so that callers find another one.
        if is_old or response.status == HTTPStatus.SERVICE_UNAVAILABLE:
            response.force_close()
        return response


@web.middleware
async def renewal_failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Records renewals that we failed to serve: the orphan closer must not count them as missed.

    A refusal (4xx) is no failure, nor is a call whose source and body were not verified, or else
    any caller could keep the closer from its work.
    """
    response = await handler(request)
    is_renewal = request.get(ROUTE) == leases.RENEWALS_PATH
    if is_renewal and response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        caller = request.get(MUTATING_CALLER)
        if caller is not None:
            request.app[leases.LEASES].availability.record_failure(caller.source_id)
    return response


@web.middleware
async def etag(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Adds an ETag to the response of a read, and turns it into a 304 if the caller has it.

    The query runs in any case, because it authorizes the caller; a 304 saves the transfer and
    the sidecar's decoding.
    """
    response = await handler(request)
    if request.method != "GET" or response.status != 200 or not isinstance(response, web.Response):
        return response
    body = response.body
    if not isinstance(body, bytes):
        return response
    tag = hashlib.blake2b(body, digest_size=12).hexdigest()
    response.etag = tag
    if any(candidate.value == tag for candidate in request.if_none_match or ()):
        return web.Response(status=304, headers={"ETag": f'"{tag}"'})
    return response


@web.middleware
async def release_slot(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Frees the caller's concurrency slot, which authentication has taken."""
    try:
        return await handler(request)
    finally:
        release = request.get(RELEASE_SLOT)
        if release is not None:
            release()


@web.middleware
async def record_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Records refused mutating calls of any route.

    Refused entries of a batch are recorded with the batch; these are the whole calls.
    """
    try:
        return await handler(request)
    except Problem as problem:
        caller, refusal_log = request.get(MUTATING_CALLER), request.app.get(REFUSAL_LOG)
        if caller is not None and refusal_log is not None:
            execution_id = request.match_info.get("execution_id", "")
            refusal = Refusal(
                caller.user_id,
                int(execution_id) if _ID.fullmatch(execution_id) else None,
                f"{request.method} {request.get(ROUTE, '')}",
                problem,
            )
            await refusal_log.record(caller.source_id, refusal)
        raise


def describe_caller(request: web.Request) -> dict[str, Any]:
    """The caller of a failed call, for the log: as far as its credentials were verified."""
    user, caller = request.get(USER), request.get(MUTATING_CALLER)
    found = {} if user is None else {"user_id": user.user_id}
    return found if caller is None else {**found, "source_id": caller.source_id}


async def add_user_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Returns to the sidecar the user of the token that it has sent, and the token's expiry.

    A signal handler (`on_response_prepare`), so that problems carry these headers as well.
    """
    user = request.get(USER)
    if user is not None:
        response.headers["X-User-Id"] = str(user.user_id)
        response.headers["X-Token-Expires-At"] = str(int(user.expires_at))
