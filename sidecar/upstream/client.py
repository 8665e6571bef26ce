"""The HTTP client of central: signs each call, maps every failure to a problem, retries once.

A call has one deadline from when it is sent, its retry included. A response with `Retry-After` is
not retried. Calls that a CU waits for, batches and lease renewals have a connection pool each
(`lifecycle`), so that a slow bulk call never delays a read.

Each user has a share of the connections and a circuit of their own, so that a flood of one user's
calls neither delays nor fails another's. All tokens whose user is unknown have one together. A call
that waits too long for its share is refused (`RateLimited`): that says nothing of central, and
whether central is reachable is the probe's to say alone (`sidecar.upstream.probe`).

A call that central refuses because the key that signed it was replaced is sent again under the new
key (`sidecar.upstream.key_rotation`): it was refused as a whole, so that this is no repetition.
"""

import asyncio
import email.utils
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
from cachetools import LRUCache
from yarl import URL

from kit.http.concurrency_limit import ConcurrencyLimiter
from kit.http.failed_calls import trace_id
from kit.http.logs import fields
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, RateLimited, UpstreamProblem
from sidecar.upstream.credentials import WORKLOAD_HEADER, WorkloadToken
from sidecar.upstream.resilience import CircuitBreaker
from sidecar.upstream.source_identity import SourceIdentity

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 2.0
CONCURRENT_CALLS_PER_USER = 8
"""More than the five calls of one user that central runs at once."""
MAX_TRACKED_USERS = 1_000
KEEPALIVE_S = 60.0
SKEW_TOLERATED_S = 2.0
"""The `Date` header counts whole seconds: a smaller difference means nothing."""
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for a body of another form."""
NOT_MODIFIED = 304
SOURCE_SUCCEEDED = "source-succeeded"
"""Central's problem for a key that was replaced."""
TOO_LARGE = 413
OVERLOAD_STATUSES = frozenset({502, 503, 504})
"""Central or its database is unavailable, for any caller and any call."""
SLOT_TIMEOUT_S = 2.0
"""How long a call waits for its user's share of the connections."""
RETRY_AFTER_S = 1.0
"""For a caller whose share is in use for longer."""
RETRY_PAUSE_S = 0.1
"""The jitter before the retry, uniform up to this: concurrent failures must not retry as one."""


@asynccontextmanager
async def open_session(
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[aiohttp.ClientSession]:
    """A connection pool to central, without cookies. None trusts the system's CAs."""
    connector = aiohttp.TCPConnector(
        limit=0,  # a wait for a connection would count as a failure of central: `CentralClient`
        keepalive_timeout=KEEPALIVE_S,
        ssl=True if tls is None else tls,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,  # a proxy named by the environment would see users' tokens
    )
    async with session:
        yield session


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a call carries of the request that caused it.

    `user_id` is the token's user if central has named it, at any time: it says whose share of the
    connections the call uses, and authorizes nothing. `run_id` is the execution of a run token,
    which is good at this sidecar only (`sidecar.upstream.run_tokens`).
    """

    token: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    user_id: int | None = None
    run_id: int | None = None


@dataclass(frozen=True, slots=True)
class CentralResponse:
    """A success. User and expiry are those of the call's token.

    304, without a body, if the caller's ETag still matches. `is_replayed`: the stored response to
    an earlier call with the same idempotency key. `asked_at` is by the wall clock: what central
    allows is as old as the question.
    """

    status: int
    body: bytes
    user_id: int | None = None
    token_expires_at: int | None = None
    etag: str | None = None
    is_replayed: bool = False
    asked_at: float = 0.0

    @property
    def is_unchanged(self) -> bool:
        return self.status == NOT_MODIFIED


class CentralClient:
    """Calls to central. Raises `CentralUnavailable`, `UpstreamProblem` and `RateLimited`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        identity: SourceIdentity,
        metrics: Metrics,
        *,
        timeout_s: float,
        workload: WorkloadToken | None = None,
        wall_clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._identity = identity
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._workload = workload
        self._wall_clock = wall_clock
        self._monotonic = monotonic
        self._uniform = uniform
        self._sleep = sleep
        self._slots = ConcurrencyLimiter(CONCURRENT_CALLS_PER_USER)
        self._circuits: LRUCache[int | None, CircuitBreaker] = LRUCache(MAX_TRACKED_USERS)
        self.clock_offset_s = 0.0
        """Central's clock minus ours, from its `Date` header."""

    def central_now(self) -> float:
        """Central's clock, in Unix seconds."""
        return self._wall_clock() + self.clock_offset_s

    async def call(
        self,
        name: str,
        method: str,
        target: str,
        *,
        context: CallContext,
        body: bytes = b"",
        idempotency_key: str | None = None,
        etag: str | None = None,
        single_attempt: bool = False,
    ) -> CentralResponse:
        """One call. `name` is its label in metrics, `target` its path and query as sent.

        A failed call is retried once if the deadline allows; a mutating one needs an idempotency
        key for that. With `single_attempt` it is sent exactly once, even while the circuit is
        open: its caller has a retry loop of its own. With `etag` the response may be 304.
        """
        circuit = self._circuit_of(context.user_id)
        call = _Call(name, method, target, context, body, idempotency_key, etag, circuit)
        if single_attempt:
            return await self._attempt(call, self._monotonic() + self._timeout_s)
        self._check_circuit(call)
        if not await self._slots.acquire(context.user_id, SLOT_TIMEOUT_S):
            self._metrics.upstream_requests.labels(name, "not-sent").inc()
            raise RateLimited(
                "too many concurrent calls of this user to central", retry_after_s=RETRY_AFTER_S
            )
        try:
            return await self._with_retry(call)
        finally:
            self._slots.release(context.user_id)

    async def _with_retry(self, call: "_Call") -> CentralResponse:
        deadline = self._monotonic() + self._timeout_s
        try:
            return await self._attempt(call, deadline)
        except CentralUnavailable as problem:
            pause_s = self._uniform(0, RETRY_PAUSE_S)
            has_time = self._monotonic() + pause_s < deadline
            if problem.has_retry_after or call.circuit.is_open or not has_time:
                raise
        await self._sleep(pause_s)
        self._check_circuit(call)
        self._metrics.upstream_retries.inc()
        return await self._attempt(call, deadline)

    def _circuit_of(self, user_id: int | None) -> CircuitBreaker:
        circuit = self._circuits.get(user_id)
        if circuit is None:
            circuit = self._circuits[user_id] = CircuitBreaker()
        return circuit

    def _check_circuit(self, call: "_Call") -> None:
        now = self._monotonic()
        if not call.circuit.allows(now):
            self._metrics.upstream_requests.labels(call.name, "circuit-open").inc()
            raise CentralUnavailable(
                "central is unavailable; the next attempt is due soon",
                retry_after_s=call.circuit.retry_after_s(now),
            )

    async def _attempt(self, call: "_Call", deadline: float) -> CentralResponse:
        while True:
            source_id = self._identity.source_id
            try:
                return await self._send(call, deadline)
            except UpstreamProblem as problem:
                if problem.slug != SOURCE_SUCCEEDED:
                    raise
                self._identity.accept_successor(problem.document().get("successor_id"))
                if self._identity.source_id == source_id:  # replaced by a key that is not ours
                    raise

    async def _send(self, call: "_Call", deadline: float) -> CentralResponse:
        url = URL(self._base_url + call.target, encoded=True)
        sent_at, asked_at = self._monotonic(), self._wall_clock()
        headers = self._headers(call, url.raw_path_qs)
        left_s = max(0.001, deadline - sent_at)  # aiohttp takes 0 for no timeout at all
        try:
            async with self._session.request(
                call.method,
                url,
                data=call.body or None,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=left_s, connect=min(left_s, CONNECT_TIMEOUT_S)),
            ) as response:
                payload = await response.read()
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            self._record_failure(call)
            self._metrics.upstream_requests.labels(call.name, "unreachable").inc()
            is_connected = not isinstance(error, aiohttp.ConnectionTimeoutError)
            raise CentralUnavailable(
                f"central cannot be reached ({type(error).__name__})",
                retry_after_s=1,
                timed_out=isinstance(error, TimeoutError) and is_connected,
            ) from error
        self._metrics.upstream_seconds.labels(call.name).observe(
            self._monotonic() - sent_at, trace_id(call.context.traceparent)
        )
        self._update_clock_offset(response.headers.get("Date"))
        return self._classify_response(call, response.status, response.headers, payload, asked_at)

    def _classify_response(
        self, call: "_Call", status: int, headers: Mapping[str, str], body: bytes, asked_at: float
    ) -> CentralResponse:
        """There are three kinds: success, central unavailable, and a problem for the caller."""
        name, media_type = call.name, headers.get("Content-Type", "")
        is_unchanged = status == NOT_MODIFIED and call.etag is not None
        if is_unchanged or (200 <= status < 300 and media_type.startswith("application/json")):
            call.circuit.record_success()
            self._metrics.upstream_requests.labels(name, "ok").inc()
            return CentralResponse(
                status,
                body,
                _integer(headers.get("X-User-Id")),
                _integer(headers.get("X-Token-Expires-At")),
                headers.get("ETag"),
                "Idempotent-Replayed" in headers,
                asked_at,
            )
        document = problem_document(media_type, body)
        if document is None or status in OVERLOAD_STATUSES:
            if status != TOO_LARGE:  # a proxy's word on this one call
                self._record_failure(call)
            self._metrics.upstream_requests.labels(name, "unavailable").inc()
            slug = document["type"] if document else "no problem document of central's"
            raise CentralUnavailable(
                f"central answered {status} ({slug})",
                retry_after_s=_integer(headers.get("Retry-After")) or 1,
                has_retry_after=status in {429, 503} and "Retry-After" in headers,
                from_unknown_server=document is None,
                response_status=status,
            )
        # A problem, 429 included, says nothing against central's health.
        call.circuit.record_success()
        self._metrics.upstream_requests.labels(name, "problem").inc()
        relayed = {
            name: headers[name] for name in ("Retry-After", "WWW-Authenticate") if name in headers
        }
        raise UpstreamProblem(document | {"status": status}, relayed)

    def _record_failure(self, call: "_Call") -> None:
        was_open = call.circuit.is_open
        call.circuit.record_failure(self._monotonic())
        self._metrics.circuits_opened.inc(call.circuit.is_open and not was_open)

    def _headers(self, call: "_Call", target: str) -> dict[str, str]:
        context = call.context
        headers = {
            "Sidecar-Assertion": self._identity.assertion(
                call.method,
                target,
                call.body,
                now=self.central_now(),
                token=context.token,
                idempotency_key=call.idempotency_key,
            ),
            "Accept": "application/json",
        }
        if call.body:
            headers["Content-Type"] = "application/json"
        optional = {
            "Authorization": f"Bearer {context.token}" if context.token is not None else None,
            WORKLOAD_HEADER: None if self._workload is None else self._workload.read(),
            "Idempotency-Key": call.idempotency_key,
            "If-None-Match": call.etag,
            "X-Request-Id": context.request_id,
            "traceparent": context.traceparent,
            "tracestate": context.tracestate,
        }
        return headers | {name: value for name, value in optional.items() if value is not None}

    def _update_clock_offset(self, date: str | None) -> None:
        """Central checks assertions by its own clock; a pod's clock may be off."""
        if date is None:
            return
        try:
            central_now = email.utils.parsedate_to_datetime(date).timestamp()
        except (ValueError, OverflowError):  # out of range
            return
        offset = central_now - self._wall_clock()
        corrected = offset if abs(offset) > SKEW_TOLERATED_S else 0.0
        if abs(corrected - self.clock_offset_s) > SKEW_TOLERATED_S:
            logger.warning("clock differs from central's", extra=fields(offset_s=round(offset)))
            self.clock_offset_s = corrected
        elif corrected == 0.0:
            self.clock_offset_s = 0.0


@dataclass(frozen=True, slots=True)
class _Call:
    name: str
    method: str
    target: str
    context: CallContext
    body: bytes
    idempotency_key: str | None
    etag: str | None
    circuit: CircuitBreaker


def _integer(text: str | None) -> int | None:
    """A header's number; None for anything else, and for more digits than central sends."""
    is_number = text is not None and text.isascii() and text.isdigit() and len(text) < 19
    return int(text) if text is not None and is_number else None


def problem_document(content_type: str, body: bytes) -> dict[str, Any] | None:
    """The problem, if it is one of central's: a proxy's error page never settles a write."""
    if not content_type.startswith("application/problem+json"):
        return None
    try:
        document = msgspec.json.decode(body)
    except UNDECODABLE:
        return None
    if not isinstance(document, dict) or not isinstance(document.get("type"), str):
        return None
    return document if document["type"] and document["type"] != "about:blank" else None
