"""Reads: through the cache to central, with the sidecar's own waiting writes laid over.

The order of the steps keeps an acknowledged write seen: the waiting writes are taken first,
then the value they are laid over, and a value fetched while the generation moved is fetched
anew. What settled in between is then in one of the two, or in both, which is the same.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec

from sidecar import operations, wire
from sidecar.cache.access import AccessMemory, Verdict, token_digest
from sidecar.cache.registry import Registry
from sidecar.cache.single_flight import SingleFlight
from sidecar.cache.store import Cached, RegistryStore
from sidecar.metrics import Metrics
from sidecar.problems import (
    CentralUnavailable,
    ConsoleNotFound,
    RelayedProblem,
    ResultUriNotFound,
    TokenExpired,
)
from sidecar.spool.entry import Entry, WriteRecord, WriteState
from sidecar.spool.spool import Spool
from sidecar.upstream.central import Central
from sidecar.upstream.client import CallContext, Reply

T = TypeVar("T")

REGISTRY_TTL_S = 60.0
"""How long a deletion made elsewhere (the dashboard) may stay unseen."""
LOCAL_POLL_S = 0.05
CENTRAL_POLL_S = 1.0
"""How often a waiting look-up looks again: into memory, or at central where others write too."""
FETCHES_MAX = 5
"""Fetches of one read whose generation moved each time; then the newest is served."""

_execution = msgspec.json.Decoder(wire.Execution)
_page = msgspec.json.Decoder(wire.ExecutionPage)


@dataclass(frozen=True, slots=True)
class Seen:
    """A registry for one caller, and where it came from."""

    registry: Registry
    source: str
    age_s: float = 0.0

    def headers(self) -> dict[str, str]:
        headers = {"X-Cache": self.source}
        return headers | {"Age": str(int(self.age_s))} if self.source == "stale" else headers


class Reads:
    """What the CU reads. Raises the problems of the calls it makes."""

    def __init__(
        self,
        spool: Spool,
        central: Central,
        store: RegistryStore,
        access: AccessMemory,
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._monotonic = monotonic
        self._sleep = sleep
        self._spool = spool
        self._central = central
        self._store = store
        self._access = access
        self._metrics = metrics
        self._fetches: SingleFlight[Registry] = SingleFlight()

    async def uris(self, execution_id: int, context: CallContext) -> Seen:
        seen = await self._registry(execution_id, context, lambda registry: True)
        self._count("uris", seen)
        return seen

    async def result_uri(
        self, execution_id: int, query: wire.ResultUriQuery, context: CallContext
    ) -> tuple[wire.ResultUri, Seen]:
        """Raises `ResultUriNotFound` when the port has no result, after `query.wait` seconds."""
        give_up_at = self._monotonic() + query.wait
        while True:
            try:
                return await self._result_uri(execution_id, query, context)
            except ResultUriNotFound:
                pause_s = LOCAL_POLL_S if self._is_sole_writer(execution_id) else CENTRAL_POLL_S
                if self._monotonic() + pause_s > give_up_at:
                    raise
            await self._sleep(pause_s)

    async def _result_uri(
        self, execution_id: int, query: wire.ResultUriQuery, context: CallContext
    ) -> tuple[wire.ResultUri, Seen]:
        def find(registry: Registry) -> str | None:
            return registry.external_port(query.operator_id, query.port_id, query.internal)

        seen = await self._registry(execution_id, context, lambda r: find(r) is not None)
        self._count("result-uri", seen)
        port = find(seen.registry)
        if port is None:
            raise ResultUriNotFound(
                f"execution {execution_id}, operator {query.operator_id}, port {query.port_id}"
            )
        uri, size = seen.registry.results[port]
        return wire.ResultUri(uri, port, size), seen

    async def console(
        self, execution_id: int, operator_id: str, context: CallContext
    ) -> tuple[wire.ConsoleUri, Seen]:
        """Raises `ConsoleNotFound` when the operator has printed nothing yet."""
        seen = await self._registry(execution_id, context, lambda r: operator_id in r.consoles)
        self._count("console", seen)
        stored = seen.registry.consoles.get(operator_id)
        if stored is None:
            raise ConsoleNotFound(f"execution {execution_id}, operator {operator_id}")
        return wire.ConsoleUri(*stored), seen

    async def execution(
        self, execution_id: int, context: CallContext
    ) -> tuple[wire.Execution, bool]:
        """The row, and whether waiting writes were laid over it."""
        waiting = await self._spool.waiting(execution_id)
        row = await self._steady(
            execution_id,
            lambda: self._central.read("execution", f"/v1/executions/{execution_id}", context),
            _execution.decode,
        )
        self._lay_over(row, waiting)
        return row, bool(waiting)

    async def latest(self, target: str, context: CallContext) -> tuple[wire.Execution, bool]:
        """The newest execution `target` (path and query) asks for."""
        row = _execution.decode((await self._central.read("latest", target, context)).body)
        waiting = await self._spool.waiting(row.execution_id)
        self._lay_over(row, waiting)
        return row, bool(waiting)

    async def page(self, target: str, context: CallContext) -> wire.ExecutionPage:
        page = _page.decode((await self._central.read("list", target, context)).body)
        for row in page.executions:
            self._lay_over(row, await self._spool.waiting(row.execution_id))
        return page

    def _lay_over(self, row: wire.Execution, waiting: Sequence[Entry]) -> None:
        for entry in waiting:
            operations.overlay_execution(row, msgspec.json.decode(entry.document))

    async def _registry(
        self, execution_id: int, context: CallContext, suffices: Callable[[Registry], bool]
    ) -> Seen:
        digest = token_digest(context.token or "")
        waiting = await self._spool.waiting(execution_id)
        cached = self._store.get(execution_id)
        verdict = self._access.verdict(digest, execution_id)
        if verdict is Verdict.EXPIRED:
            raise TokenExpired("the token's exp has passed")
        if verdict is Verdict.FRESH and cached is not None and self._is_current(cached):
            laid_over = _laid_over(cached.registry, waiting)
            if self._is_whole(execution_id, cached) or suffices(laid_over):
                return Seen(laid_over, "pending" if waiting else "hit", self._store.age_s(cached))
        try:
            fetched = await self._fetch(execution_id, digest, context)
        except CentralUnavailable:
            if cached is None or verdict not in {Verdict.FRESH, Verdict.STALE}:
                raise
            laid_over = _laid_over(cached.registry, waiting)
            if not (self._is_whole(execution_id, cached) or suffices(laid_over)):
                raise
            return Seen(laid_over, "stale", self._store.age_s(cached))
        return Seen(_laid_over(fetched, waiting), "pending" if waiting else "miss")

    def _is_whole(self, execution_id: int, cached: Cached) -> bool:
        """Whether what is not in it is nowhere: nobody else could have written since."""
        return cached.complete and self._is_sole_writer(execution_id)

    def _is_current(self, cached: Cached) -> bool:
        return self._store.age_s(cached) < REGISTRY_TTL_S

    async def _fetch(self, execution_id: int, digest: bytes, context: CallContext) -> Registry:
        attempt = 0
        while True:
            attempt += 1
            generation = self._store.generation(execution_id)

            async def fetch(generation: int = generation) -> Registry:
                reply = await self._asked(execution_id, digest, context)
                registry = Registry.of_answer(reply.decode())
                self._store.put(
                    execution_id, registry, generation, complete=self._is_sole_writer(execution_id)
                )
                return registry

            # Access belongs to the token, so only callers with the same token share a call.
            registry = await self._fetches.do((digest, execution_id, generation), fetch)
            if generation == self._store.generation(execution_id) or attempt == FETCHES_MAX:
                return registry

    async def _asked(self, execution_id: int, digest: bytes, context: CallContext) -> Reply:
        try:
            reply = await self._central.fetch_uris(execution_id, context)
        except RelayedProblem:
            self._access.deny(digest, execution_id)
            raise
        if reply.user_id is not None and reply.token_expires_at is not None:
            self._access.allow(digest, execution_id, reply.user_id, reply.token_expires_at)
        return reply

    async def _steady(
        self, execution_id: int, ask: Callable[[], Awaitable[Reply]], decode: Callable[[bytes], T]
    ) -> T:
        """An answer during which none of our writes to the execution settled."""
        for _ in range(FETCHES_MAX - 1):
            generation = self._store.generation(execution_id)
            reply = await ask()
            if generation == self._store.generation(execution_id):
                return decode(reply.body)
        return decode((await ask()).body)

    def _is_sole_writer(self, execution_id: int) -> bool:
        binding = self._spool.permits.binding(execution_id)
        return binding is not None and binding.created_here and binding.ended_at_ms is None

    def _count(self, resource: str, seen: Seen) -> None:
        self._metrics.cache_requests.labels(resource, seen.source).inc()

    # Coherence with the sidecar's own writes

    def created(self, execution_id: int, digest: bytes, user_id: int, expires_at: int) -> None:
        """A new execution: its registry is known to be empty, and its maker may read it."""
        self._access.allow(digest, execution_id, user_id, expires_at)
        generation = self._store.generation(execution_id)
        self._store.put(execution_id, Registry(), generation, complete=True)

    def appended(self, execution_id: int) -> None:
        self._store.move(execution_id)

    def settled(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None:
        """Applies what central committed to the remembered registries."""
        committed = {record.seq for record in records if record.state is WriteState.COMMITTED}
        for execution_id in {record.execution_id for record in records}:
            self._store.move(execution_id)
            cached = self._store.get(execution_id)
            if cached is None:
                continue
            registry = cached.registry.copy()
            for entry in entries:
                if entry.execution_id == execution_id and entry.seq in committed:
                    registry.apply(msgspec.json.decode(entry.document))
            self._store.replace(execution_id, registry)


def _laid_over(registry: Registry, waiting: Sequence[Entry]) -> Registry:
    if not waiting:
        return registry
    laid_over = registry.copy()
    for entry in waiting:
        laid_over.apply(msgspec.json.decode(entry.document))
    return laid_over


def target_of(path: str, parameters: dict[str, Any]) -> str:
    """Path and query as they are sent to central; absent parameters are left out."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path
