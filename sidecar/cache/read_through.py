"""Reading through a store: remembered, else asked of central once for all who ask together.

The order of the steps keeps an acknowledged write seen: the waiting writes are taken first,
then the value they are laid over, and if a write was appended or settled in between (the
generation moved) both are taken anew. What settled meanwhile is then in one of the two, or in
both, which is the same.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sidecar.cache.access import AccessCache, AccessState, token_digest
from sidecar.cache.invalidation import InvalidationToken, Validity
from sidecar.cache.resources import CacheEntry, ResourceCache, Sized
from sidecar.cache.single_flight import SingleFlight
from sidecar.problems import CentralUnavailable, TokenExpired, UpstreamProblem
from sidecar.spool.entry import Entry
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import Central
from sidecar.upstream.client import CallContext, CentralResponse

ValueT = TypeVar("ValueT", bound=Sized)

MAX_REREADS = 5
"""Readings of one call whose generation moved each time; then the newest is served."""
DENIED_STATUSES = frozenset({401, 403, 404})
"""Central's no to this token or to this thing, unlike 429, which is about the moment."""
TOO_MANY_REQUESTS = 429
STALE_IF_SLOW_S = 1.0
"""How long central may take while a remembered value could be shown instead, as stale."""


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """One read: what is remembered by `key` belongs to `resource`, which access and writes name.

    `label` and `call` name it in metrics, as it was asked and as it is asked of central.
    `execution_id` is the execution whose waiting writes count; None where the value says it.
    """

    label: str
    call: str
    key: Hashable
    target: str
    resource: Hashable
    context: CallContext
    execution_id: int | None = None

    @property
    def digest(self) -> bytes:
        return token_digest(self.context.token or "")


@dataclass(frozen=True, slots=True)
class ReadResult(Generic[ValueT]):
    """A value for one caller, and where it came from: hit, miss, stale or pending.

    `resource` is its label in metrics. `validity` is there when the
    answer may be given again without looking here.
    """

    value: ValueT
    cache_status: str
    label: str
    age_s: float = 0.0
    validity: Validity | None = None

    def headers(self) -> dict[str, str]:
        headers = {"X-Cache": self.cache_status}
        return headers | {"Age": str(int(self.age_s))} if self.cache_status == "stale" else headers


class ReadThrough(Generic[ValueT]):
    """Reads of one kind. Raises `TokenExpired`, `CentralUnavailable` and central's own problems.

    `is_sole_writer` says of a resource whether nobody but this sidecar writes there.
    """

    def __init__(
        self,
        store: ResourceCache[ValueT],
        access: AccessCache,
        central: Central,
        spool: Spool,
        *,
        ttl_s: float,
        decode: Callable[[bytes], ValueT],
        apply_pending: Callable[[ValueT, Sequence[Entry]], ValueT],
        execution_of: Callable[[ValueT], int | None] = lambda value: None,
        is_sole_writer: Callable[[Hashable], bool] = lambda resource: False,
        patience_s: float = STALE_IF_SLOW_S,
    ) -> None:
        self.store = store
        self._access = access
        self._central = central
        self._spool = spool
        self._ttl_s = ttl_s
        self._decode = decode
        self._lay_over = apply_pending
        self._execution_of = execution_of
        self._is_complete = is_sole_writer
        self._patience_s = patience_s
        self._flights: SingleFlight[CacheEntry[ValueT]] = SingleFlight()

    async def read(
        self, asked: ReadRequest, suffices: Callable[[ValueT], bool] = lambda value: True
    ) -> ReadResult[ValueT]:
        """`suffices` says whether a remembered value others may have added to is enough."""
        known = self.store.get(asked.key)
        execution_id = self._execution(asked, known.value if known else None)
        attempt = 0
        while True:
            attempt += 1
            generation = self.store.generation(asked.resource)
            waiting = await self._waiting(execution_id)
            cached, cache_status = await self._value(asked, waiting, suffices)
            actual = self._execution(asked, cached.value)
            is_consistent = generation.is_valid or attempt >= MAX_REREADS
            if actual != execution_id:
                # Another execution's writes count than was thought: none, or taken first anew.
                execution_id, waiting = actual, []
                is_consistent &= not self._spool.queues.length(actual or 0)
            if is_consistent or attempt > MAX_REREADS:
                return self._seen(asked, cached, cache_status, waiting, generation)

    async def refresh(self, asked: ReadRequest) -> ValueT:
        """Central's value, asked for now."""
        return (await self._fetch(asked)).value

    async def _waiting(self, execution_id: int | None) -> Sequence[Entry]:
        return [] if execution_id is None else await self._spool.waiting(execution_id)

    def _execution(self, asked: ReadRequest, value: ValueT | None) -> int | None:
        if asked.execution_id is not None or value is None:
            return asked.execution_id
        return self._execution_of(value)

    async def _value(
        self, asked: ReadRequest, waiting: Sequence[Entry], suffices: Callable[[ValueT], bool]
    ) -> tuple[CacheEntry[ValueT], str]:
        cached = self.store.get(asked.key)
        verdict = self._access.state_of(asked.digest, asked.resource)
        if verdict is AccessState.EXPIRED:
            raise TokenExpired("the token's exp has passed")
        is_enough = cached is not None and (
            cached.complete or suffices(self._lay_over(cached.value, waiting))
        )
        if cached is None or not is_enough or verdict is AccessState.UNKNOWN:
            return await self._fetch(asked), "miss"
        if verdict is AccessState.FRESH and self._is_current(cached):
            return cached, "hit"
        # A yes that is merely old is not used because central is slow, only if it is down.
        wait_for_central = verdict is AccessState.STALE and self._central.is_reachable
        try:
            async with asyncio.timeout(None if wait_for_central else self._patience_s):
                return await self._fetch(asked), "miss"
        except (CentralUnavailable, TimeoutError):
            return cached, "stale"
        except UpstreamProblem as problem:
            # Central answers: who asks too much must not keep an old yes alive by that.
            if problem.status != TOO_MANY_REQUESTS or verdict is AccessState.STALE:
                raise
            return cached, "stale"

    def _is_current(self, cached: CacheEntry[ValueT]) -> bool:
        return not cached.must_revalidate and self.store.age_s(cached) < self._ttl_s

    async def _fetch(self, asked: ReadRequest) -> CacheEntry[ValueT]:
        generation = self.store.generation(asked.resource)
        # Access belongs to the token, so only callers with the same token share a call. A call
        # begun before a write is not shared by those who come after it.
        flight = (asked.digest, asked.key, generation)
        return await self._flights.do(flight, lambda: self._ask(asked, generation))

    async def _ask(self, asked: ReadRequest, generation: InvalidationToken) -> CacheEntry[ValueT]:
        known = self.store.get(asked.key)
        etag = known.etag if known is not None else None
        reply = await self._allowed(asked, etag)
        if known is not None and reply.is_unchanged:
            value = known.value
        else:
            value, etag = self._decode(reply.body), reply.etag
        return self.store.put(
            asked.key,
            value,
            generation,
            resource=asked.resource,
            complete=self._is_complete(asked.resource),
            etag=etag,
        )

    async def _allowed(self, asked: ReadRequest, etag: str | None) -> CentralResponse:
        try:
            reply = await self._central.read(asked.call, asked.target, asked.context, etag)
        except UpstreamProblem as problem:
            if problem.status in DENIED_STATUSES:
                self._access.revoke(asked.digest, asked.resource)
            raise
        if reply.user_id is not None and reply.token_expires_at is not None:
            self._access.grant(asked.digest, asked.resource, reply.user_id, reply.token_expires_at)
        return reply

    def _seen(
        self,
        asked: ReadRequest,
        cached: CacheEntry[ValueT],
        cache_status: str,
        waiting: Sequence[Entry],
        generation: InvalidationToken,
    ) -> ReadResult[ValueT]:
        value, validity = cached.value, None
        if waiting:
            value = self._lay_over(value, waiting)
            cache_status = cache_status if cache_status == "stale" else "pending"
        elif cache_status == "hit":
            validity = self._validity(asked, cached, generation)
        return ReadResult(value, cache_status, asked.label, self.store.age_s(cached), validity)

    def _validity(
        self, asked: ReadRequest, cached: CacheEntry[ValueT], generation: InvalidationToken
    ) -> Validity | None:
        term = self._access.term(asked.digest, asked.resource)
        if term is None:
            return None

        def touch() -> None:
            self.store.get(asked.key)
            self.store.generation(asked.resource)
            self._access.state_of(asked.digest, asked.resource)

        return Validity(
            generation,
            cached.token,
            term.token,
            cached.stored_at + self._ttl_s,
            term.begins_at,
            term.ends_at,
            touch,
        )
