"""Reads through the cache: a cached value, else one call to central for all who read together.

The order of the steps keeps an acknowledged write visible: pending writes are read first, then
the value they are applied to; if a write was appended or settled in between (its generation is
invalid), both are read again. A write that settled meanwhile is then in one of the two or in
both, which is the same.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic

from kit.http.problems import Problem
from sidecar.cache.access import AccessCache, AccessState
from sidecar.cache.invalidation import InvalidationToken, Validity
from sidecar.cache.resources import CacheEntry, ResourceCache, ValueT
from sidecar.problems import CentralUnavailable, RateLimited, TokenExpired, UpstreamProblem
from sidecar.spool.entry import Entry
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import Central
from sidecar.upstream.client import CallContext
from sidecar.upstream.single_flight import SingleFlight

MAX_REREADS = 5
"""Attempts of one read whose generation is invalidated each time; then the newest is served."""
DENIED_STATUSES = frozenset({401, 403, 404})
"""Refusals of this token or of this resource, unlike 429, which is about the rate."""
TOO_MANY_REQUESTS = 429
STALE_IF_SLOW_S = 1.0
"""How long central may take before a cached value is served as stale instead."""


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """One read of `target` by the token with this digest.

    `label` and `call` name it in metrics: as the caller made it, and as it is sent to central.
    `is_per_caller`: the value depends on who reads, so that no other token is given it.
    """

    label: str
    call: str
    target: str
    resource: Hashable
    context: CallContext
    token_digest: bytes
    is_per_caller: bool = False

    @property
    def key(self) -> str:
        """Of the value in the cache."""
        return f"{self.target} {self.token_digest.hex()}" if self.is_per_caller else self.target


@dataclass(frozen=True, slots=True)
class ReadResult(Generic[ValueT]):
    """A value for one caller. `cache_status` is hit, miss, stale or pending, `reason` why it was no
    hit.

    `label` names the read in metrics. `validity` is set where the response may be served again
    without another read.
    """

    value: ValueT
    cache_status: str
    label: str
    age_s: float = 0.0
    validity: Validity | None = None
    reason: str = ""

    def headers(self) -> dict[str, str]:
        if self.cache_status == "stale":
            return {"X-Cache": "stale", "Age": str(int(self.age_s))}
        return {"X-Cache": self.cache_status}


class ReadThrough(Generic[ValueT]):
    """Reads of one kind. Raises `TokenExpired`, `CentralUnavailable` and central's own problems."""

    def __init__(
        self,
        value_type: type[ValueT],
        ttl_s: float,
        cache: ResourceCache,
        access: AccessCache,
        central: Central,
        spool: Spool,
        stale_if_slow_s: float,
    ) -> None:
        self._value_type = value_type
        self._ttl_s = ttl_s
        self._cache = cache
        self._access = access
        self._central = central
        self._spool = spool
        self._stale_if_slow_s = stale_if_slow_s
        self._flights: SingleFlight[CacheEntry[ValueT]] = SingleFlight()

    async def read(
        self, request: ReadRequest, is_sufficient: Callable[[ValueT], bool] = lambda value: True
    ) -> ReadResult[ValueT]:
        """`is_sufficient`: whether a cached value that others may have added to is enough."""
        cached = self._cache.get(request.key)
        execution_id = cached.execution_id if cached is not None else None
        for _ in range(MAX_REREADS):
            generation = self._cache.generation(request.resource)
            pending = [] if execution_id is None else await self._spool.waiting(execution_id)
            entry, cache_status, reason = await self._entry(request, pending, is_sufficient)
            if entry.execution_id != execution_id:
                # First read of the target, or its latest run is another one by now.
                execution_id, pending = entry.execution_id, []
                if self._spool.has_waiting(execution_id or 0):
                    continue
            if generation.is_valid:
                break
        if cache_status == "stale":
            pending = self._without_others(pending, request)
        if pending:
            value = entry.value.with_pending(pending)
            if cache_status != "stale":
                cache_status, reason = "pending", ""
            age_s = self._cache.age_s(entry)
            return ReadResult(value, cache_status, request.label, age_s, reason=reason)
        validity = self._validity(request, entry, generation) if cache_status == "hit" else None
        age_s = self._cache.age_s(entry)
        return ReadResult(entry.value, cache_status, request.label, age_s, validity, reason)

    async def refresh(self, request: ReadRequest) -> ValueT:
        """Central's current value."""
        return (await self._fetch(request)).value

    async def _entry(
        self,
        request: ReadRequest,
        pending: Sequence[Entry],
        is_sufficient: Callable[[ValueT], bool],
    ) -> tuple[CacheEntry[ValueT], str, str]:
        """With the cache status, and the reason why it is no hit (`metrics.CACHE_RESULTS`)."""
        entry: CacheEntry[ValueT] | None = self._cache.get(request.key)
        access = self._access.state_of(request.token_digest, request.resource)
        if access is AccessState.EXPIRED:
            raise TokenExpired("the token's exp has passed")
        if entry is None:
            return await self._fetch(request), "miss", "not-cached"
        if access is AccessState.UNKNOWN:
            return await self._fetch(request), "miss", "no-grant"
        if not (
            is_sufficient(entry.value.with_pending(pending))
            or self._cache.is_sole_writer(request.resource)
        ):
            return await self._fetch(request), "miss", "incomplete"
        is_current = not entry.must_revalidate and self._cache.age_s(entry) < self._ttl_s
        if access is AccessState.FRESH and is_current:
            return entry, "hit", ""
        # A stale grant is not used because central is slow, only if it is away.
        wait_for_central = access is AccessState.STALE and self._central.is_reachable
        try:
            async with asyncio.timeout(None if wait_for_central else self._stale_if_slow_s):
                return await self._fetch(request), "miss", "expired"
        except TimeoutError as error:
            failure: Problem = CentralUnavailable("central is slow", retry_after_s=1)
            failure.__cause__ = error
            reason = "slow"
        except CentralUnavailable as problem:
            failure, reason = problem, "unavailable"
        except (RateLimited, UpstreamProblem) as problem:
            if problem.status != TOO_MANY_REQUESTS:
                raise
            failure, reason = problem, "rate-limited"
        if not self._may_show_stale(request, entry):
            raise failure
        return entry, "stale", reason

    def _may_show_stale(self, request: ReadRequest, entry: CacheEntry[ValueT]) -> bool:
        """A grant that is still fresh shows what is cached. One that has lapsed does so only while
        central is away, and only what was cached before: whoever fails their own calls, or is over
        a rate limit, must not prolong a grant that way."""
        grant = self._access.find(request.token_digest, request.resource)
        match self._access.state_of(request.token_digest, request.resource):
            case AccessState.FRESH:
                return True
            case AccessState.STALE if grant is not None:
                return not self._central.is_reachable and entry.changed_at <= grant.lapses_at
            case _:
                return False

    def _without_others(self, pending: list[Entry], request: ReadRequest) -> list[Entry]:
        """What is pending, without other users' writes if the grant has lapsed."""
        if self._access.state_of(request.token_digest, request.resource) is AccessState.FRESH:
            return pending
        grant = self._access.find(request.token_digest, request.resource)
        return [entry for entry in pending if grant is not None and entry.user_id == grant.user_id]

    async def _fetch(self, request: ReadRequest) -> CacheEntry[ValueT]:
        generation = self._cache.generation(request.resource)
        # Access belongs to the token, so only callers with the same token share a call. A call
        # begun before a write is not shared by callers that come after it.
        flight = (request.token_digest, request.key, generation)
        return await self._flights.do(flight, lambda: self._call_central(request, generation))

    async def _call_central(
        self, request: ReadRequest, generation: InvalidationToken
    ) -> CacheEntry[ValueT]:
        cached: CacheEntry[ValueT] | None = self._cache.get(request.key)
        etag = cached.etag if cached is not None else None
        digest, resource = request.token_digest, request.resource
        try:
            reply = await self._central.read(request.call, request.target, request.context, etag)
        except UpstreamProblem as problem:
            if problem.status in DENIED_STATUSES:
                self._access.revoke(digest, resource)
            raise
        if reply.user_id is not None and reply.token_expires_at is not None:
            self._access.grant(
                digest, resource, reply.user_id, reply.token_expires_at, reply.asked_at
            )
        if cached is not None and reply.is_unchanged:
            value = cached.value
        else:
            value, etag = self._value_type.from_json(reply.body), reply.etag
        return self._cache.put(request.key, value, generation, resource=resource, etag=etag)

    def _validity(
        self, request: ReadRequest, entry: CacheEntry[ValueT], generation: InvalidationToken
    ) -> Validity | None:
        grant = self._access.find(request.token_digest, request.resource)
        if grant is None:
            return None

        def touch() -> None:
            self._cache.get(request.key)
            self._cache.generation(request.resource)
            self._access.find(request.token_digest, request.resource)

        return Validity(
            generation,
            entry.token,
            grant.token,
            entry.stored_at + self._ttl_s,
            grant.granted_at,
            grant.fresh_until,
            touch,
        )
