"""Reads: from memory or through it from central, with the sidecar's own waiting writes laid over.

Two kinds of values are remembered. An execution's *registry* of URIs is kept for a minute:
URIs are written once. *Rows* (an execution, a workflow's latest one) change while a run goes
on, so they are kept for moments and then compared with central's by ETag. How both stay
coherent with the sidecar's own writes is in `cache/read_through.py` and `remembered.py`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec

from sidecar.cache.access import AccessCache, workflow_key
from sidecar.cache.coherence import CoherentCache
from sidecar.cache.long_poll import LongPollHub
from sidecar.cache.pending import (
    CachedCosts,
    CachedExecution,
    apply_pending,
    decode_registry,
    registry_with,
)
from sidecar.cache.read_through import (
    MAX_REREADS,
    STALE_IF_SLOW_S,
    ReadRequest,
    ReadResult,
    ReadThrough,
)
from sidecar.cache.resources import ValueT
from sidecar.cache.uri_registry import UriRegistry
from sidecar.metrics import Metrics
from sidecar.problems import ConsoleNotFound, ResultUriNotFound
from sidecar.spool.bindings import Binding
from sidecar.spool.entry import Entry, WriteRecord
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import Central
from sidecar.upstream.client import CallContext
from sidecar.wire import v1

REGISTRY_TTL_S = 60.0
"""How long a deletion made elsewhere (the dashboard) may stay unseen."""
_page = msgspec.json.Decoder(v1.ExecutionPage)


class Reads:
    """What the CU reads. Raises the problems of the calls it makes."""

    def __init__(
        self,
        spool: Spool,
        central: Central,
        access: AccessCache,
        metrics: Metrics,
        *,
        max_bytes: int,
        execution_cache_ttl_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        patience_s: float = STALE_IF_SLOW_S,
    ) -> None:
        self._spool = spool
        self._central = central
        self._access = access
        self._metrics = metrics
        self._long_polls = LongPollHub(sleep)
        self._cache = cache = CoherentCache(
            spool, max_bytes, monotonic, metrics.cache_evictions.labels("size").inc
        )
        self._registries = ReadThrough[UriRegistry](
            cache.registries,
            access,
            central,
            spool,
            ttl_s=REGISTRY_TTL_S,
            decode=decode_registry,
            apply_pending=registry_with,
            is_sole_writer=cache.is_sole_writer,
            patience_s=patience_s,
        )
        self._rows = ReadThrough[CachedExecution](
            cache.rows,
            access,
            central,
            spool,
            ttl_s=execution_cache_ttl_s,
            decode=CachedExecution.from_json,
            apply_pending=CachedExecution.with_pending,
            execution_of=lambda row: row.execution_id,
            patience_s=patience_s,
        )
        self._costs = ReadThrough[CachedCosts](
            cache.costs,
            access,
            central,
            spool,
            ttl_s=execution_cache_ttl_s,
            decode=CachedCosts.from_json,
            apply_pending=CachedCosts.with_pending,
            execution_of=lambda costs: costs.execution_id,
            patience_s=patience_s,
        )
        spool.on_append.append(self.on_append)

    @property
    def size_bytes(self) -> float:
        return self._cache.size_bytes

    @property
    def waiter_count(self) -> int:
        """Long polls that are held."""
        return self._long_polls.waiter_count

    # Registries

    async def uris(self, execution_id: int, context: CallContext) -> ReadResult[UriRegistry]:
        asked = _registry_of("uris", execution_id, context)
        return self._record_hit(await self._registries.read(asked))

    async def result_uri(
        self, execution_id: int, query: v1.ResultUriQuery, context: CallContext
    ) -> tuple[v1.ResultUri, ReadResult[UriRegistry]]:
        """Raises `ResultUriNotFound` when the port has no result, after `query.wait` seconds."""
        try:
            return await self._result_uri(execution_id, query, context)
        except ResultUriNotFound:
            if not query.wait:
                raise
        with self._long_polls.subscribe(
            execution_id, self._refresh_probe(execution_id, context)
        ) as changed:
            try:
                async with asyncio.timeout(query.wait):
                    while True:
                        try:
                            return await self._result_uri(
                                execution_id, query, context, cached_only=True
                            )
                        except ResultUriNotFound:
                            await changed.wait()
                            changed.clear()
            except TimeoutError:
                return await self._result_uri(execution_id, query, context)

    async def _result_uri(
        self,
        execution_id: int,
        query: v1.ResultUriQuery,
        context: CallContext,
        *,
        cached_only: bool = False,
    ) -> tuple[v1.ResultUri, ReadResult[UriRegistry]]:
        """`cached_only`: what is remembered is news enough, even if the port is not in it."""

        def find(registry: UriRegistry) -> str | None:
            return registry.resolve_port(query.operator_id, query.port_id, query.internal)

        seen = await self._registries.read(
            _registry_of("result-uri", execution_id, context),
            lambda r: cached_only or find(r) is not None,
        )
        port = find(self._record_hit(seen).value)
        if port is None:
            raise ResultUriNotFound(
                f"execution {execution_id}, operator {query.operator_id}, port {query.port_id}"
            )
        uri, size = seen.value.results[port]
        return v1.ResultUri(uri, port, size), seen

    def _refresh_probe(
        self, execution_id: int, context: CallContext
    ) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            if self._cache.is_sole_writer(execution_id):
                return False  # what appears there is written here, and told at once
            known = self._cache.registries.get(execution_id)
            now = await self._registries.refresh(_registry_of("wait", execution_id, context))
            return known is None or known.value != now

        return look

    async def console(
        self, execution_id: int, operator_id: str, context: CallContext
    ) -> tuple[v1.ConsoleUri, ReadResult[UriRegistry]]:
        """Raises `ConsoleNotFound` when the operator has printed nothing yet."""
        seen = await self._registries.read(
            _registry_of("console", execution_id, context), lambda r: operator_id in r.consoles
        )
        stored = self._record_hit(seen).value.consoles.get(operator_id)
        if stored is None:
            raise ConsoleNotFound(f"execution {execution_id}, operator {operator_id}")
        return v1.ConsoleUri(*stored), seen

    # Rows

    async def execution(
        self, execution_id: int, context: CallContext, *, workflow_id: int | None = None
    ) -> ReadResult[CachedExecution]:
        """With `workflow_id` it must be an execution of that workflow."""
        prefix = f"/v1/workflows/{workflow_id}" if workflow_id is not None else "/v1"
        target = f"{prefix}/executions/{execution_id}"
        asked = ReadRequest(
            "execution", "execution", target, target, execution_id, context, execution_id
        )
        return self._record_hit(await self._rows.read(asked))

    async def latest(
        self, workflow_id: int, computing_unit_id: int | None, context: CallContext
    ) -> ReadResult[CachedExecution]:
        """The workflow's newest execution, on one computing unit or on any."""
        target = build_target(
            f"/v1/workflows/{workflow_id}/executions/latest",
            {"computing_unit_id": computing_unit_id},
        )
        asked = ReadRequest("latest", "latest", target, target, workflow_key(workflow_id), context)
        return self._record_hit(await self._rows.read(asked))

    async def costs(self, workflow_id: int, context: CallContext) -> ReadResult[CachedCosts]:
        """What the operators of the latest run that central knows as completed cost."""
        target = f"/v1/workflows/{workflow_id}/operator-costs"
        resource = workflow_key(workflow_id)
        asked = ReadRequest("operator-costs", "operator-costs", target, target, resource, context)
        return self._record_hit(await self._costs.read(asked))

    async def list_page(
        self, workflow_id: int, query: v1.ListQuery, context: CallContext
    ) -> v1.ExecutionPage:
        """Never remembered: it is asked for by people, each time another part of it."""
        path = f"/v1/workflows/{workflow_id}/executions"
        target = build_target(path, msgspec.to_builtins(query))
        for _ in range(MAX_REREADS):
            generation = self._cache.rows.generation(workflow_key(workflow_id))
            page = _page.decode((await self._central.read("list", target, context)).body)
            for row in page.executions:
                apply_pending(row, await self._spool.waiting(row.execution_id))
            if generation.is_valid:
                break
        return page

    def _record_hit(self, seen: ReadResult[ValueT]) -> ReadResult[ValueT]:
        self._metrics.cache_requests.labels(seen.label, seen.cache_status).inc()
        return seen

    # Coherence with the sidecar's own writes

    def on_create(self, binding: Binding, digest: bytes, user_id: int, expires_at: int) -> None:
        """A new execution: its maker may read it."""
        self._access.grant(digest, binding.execution_id, user_id, expires_at)
        self._cache.on_create(binding.execution_id, binding.workflow_id)

    def invalidate(self, workflow_id: int | None, execution_ids: Sequence[int] = ()) -> None:
        """A call of ours changed these at central (created, deleted, bookmarked, cleared)."""
        self._cache.invalidate(workflow_id, execution_ids)

    def on_append(self, execution_id: int) -> None:
        """A write has become durable; its caller has not been told yet."""
        self._cache.on_write(execution_id)
        self._long_polls.notify(execution_id)

    def on_settled(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None:
        """Writes are no longer waiting: committed, or refused."""
        self._cache.on_settled(entries, records)
        for execution_id in {record.execution_id for record in records}:
            self._long_polls.notify(execution_id)


def _registry_of(label: str, execution_id: int, context: CallContext) -> ReadRequest:
    target = f"/v1/executions/{execution_id}/uris"
    return ReadRequest(label, "uris", execution_id, target, execution_id, context, execution_id)


def build_target(path: str, parameters: dict[str, Any]) -> str:
    """Path and query as they are sent to central; absent parameters are left out."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path
