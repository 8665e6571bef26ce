"""Reads: cached values with the sidecar's own pending writes applied, else central's.

Three kinds of values are cached. An execution's *registry* of URIs is kept for a minute: URIs
are written once. *Rows* (an execution, a workflow's latest one) and *costs* change while a run
goes on: they are kept for `execution_cache_ttl_s` and then revalidated by ETag. `sidecar.cache`
says who may see them and how they stay coherent with the sidecar's own writes.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlencode

import msgspec

from sidecar.cache.access import AccessCache, token_digest, workflow_key
from sidecar.cache.long_poll import LongPollHub
from sidecar.cache.pending import CachedCosts, CachedExecution, apply_pending
from sidecar.cache.read_through import (
    MAX_REREADS,
    STALE_IF_SLOW_S,
    ReadRequest,
    ReadResult,
    ReadThrough,
)
from sidecar.cache.resources import ResourceCache, ValueT
from sidecar.cache.uri_registry import UriRegistry, uris_target
from sidecar.metrics import Metrics
from sidecar.problems import ConsoleNotFound, ResultUriNotFound
from sidecar.spool.bindings import Binding, Grant
from sidecar.spool.entry import Entry, WriteRecord
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import Central, decode_response
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
        stale_if_slow_s: float = STALE_IF_SLOW_S,
    ) -> None:
        self._spool = spool
        self._central = central
        self._access = access
        self._metrics = metrics
        self._long_polls = LongPollHub(sleep)
        self._cache = ResourceCache(
            spool.bindings.binding,
            max_bytes,
            monotonic,
            metrics.cache_evictions.inc,
        )
        sources = (self._cache, access, central, spool, stale_if_slow_s)
        self._registries = ReadThrough(UriRegistry, REGISTRY_TTL_S, *sources)
        self._rows = ReadThrough(CachedExecution, execution_cache_ttl_s, *sources)
        self._costs = ReadThrough(CachedCosts, execution_cache_ttl_s, *sources)
        spool.on_append.append(self.on_append)

    @property
    def size_bytes(self) -> float:
        return self._cache.size_bytes

    @property
    def waiter_count(self) -> int:
        """Long polls that are waiting."""
        return self._long_polls.waiter_count

    # Registries

    async def uris(self, execution_id: int, context: CallContext) -> ReadResult[UriRegistry]:
        request = _registry_request("uris", execution_id, context)
        return self._record_hit(await self._registries.read(request))

    async def result_uri(
        self, execution_id: int, query: v1.ResultUriQuery, context: CallContext
    ) -> tuple[v1.ResultUri, ReadResult[UriRegistry]]:
        """Raises `ResultUriNotFound` when the port has no result, after `query.wait` seconds."""
        try:
            return await self._result_uri(execution_id, query, context)
        except ResultUriNotFound:
            if not query.wait:
                raise
        probe = partial(self._refresh_probe, execution_id, context)
        with self._long_polls.subscribe(execution_id, probe) as changed, suppress(TimeoutError):
            async with asyncio.timeout(query.wait):
                while True:
                    with suppress(ResultUriNotFound):
                        return await self._result_uri(
                            execution_id, query, context, cached_only=True
                        )
                    await changed.wait()
                    changed.clear()
        return await self._result_uri(execution_id, query, context)

    async def _result_uri(
        self,
        execution_id: int,
        query: v1.ResultUriQuery,
        context: CallContext,
        *,
        cached_only: bool = False,
    ) -> tuple[v1.ResultUri, ReadResult[UriRegistry]]:
        """`cached_only`: the cached registry is new enough even if the port is not in it."""

        def find(registry: UriRegistry) -> str | None:
            return registry.resolve_port(query.operator_id, query.port_id, query.internal)

        result = await self._registries.read(
            _registry_request("result-uri", execution_id, context),
            lambda registry: cached_only or find(registry) is not None,
        )
        port = find(self._record_hit(result).value)
        if port is None:
            raise ResultUriNotFound(
                f"execution {execution_id}, operator {query.operator_id}, port {query.port_id}"
            )
        uri, size = result.value.results[port]
        return v1.ResultUri(uri, port, size), result

    async def _refresh_probe(self, execution_id: int, context: CallContext) -> bool:
        """Whether another writer has changed the registry at central."""
        if self._cache.is_sole_writer(execution_id):
            return False
        known = self._cache.get(uris_target(execution_id))
        current = await self._registries.refresh(_registry_request("wait", execution_id, context))
        return known is None or known.value != current

    async def console(
        self, execution_id: int, operator_id: str, context: CallContext
    ) -> tuple[v1.ConsoleUri, ReadResult[UriRegistry]]:
        """Raises `ConsoleNotFound` when the operator has printed nothing yet."""
        result = await self._registries.read(
            _registry_request("console", execution_id, context),
            lambda registry: operator_id in registry.consoles,
        )
        stored = self._record_hit(result).value.consoles.get(operator_id)
        if stored is None:
            raise ConsoleNotFound(f"execution {execution_id}, operator {operator_id}")
        return v1.ConsoleUri(*stored), result

    # Rows and costs

    async def execution(
        self, execution_id: int, context: CallContext, *, workflow_id: int | None = None
    ) -> ReadResult[CachedExecution]:
        """With `workflow_id` it must be an execution of that workflow."""
        prefix = f"/v1/workflows/{workflow_id}" if workflow_id is not None else "/v1"
        target = f"{prefix}/executions/{execution_id}"
        request = _request("execution", target, execution_id, context)
        return self._record_hit(await self._rows.read(request))

    async def latest(
        self, workflow_id: int, computing_unit_id: int | None, context: CallContext
    ) -> ReadResult[CachedExecution]:
        """The workflow's newest execution, on one computing unit or on any."""
        target = build_target(
            f"/v1/workflows/{workflow_id}/executions/latest",
            {"computing_unit_id": computing_unit_id},
        )
        request = _request(
            "latest",
            target,
            workflow_key(workflow_id),
            context,
            is_per_caller=computing_unit_id is None,
        )
        return self._record_hit(await self._rows.read(request))

    async def costs(self, workflow_id: int, context: CallContext) -> ReadResult[CachedCosts]:
        """The operator costs of the latest run that central knows as completed."""
        target = f"/v1/workflows/{workflow_id}/operator-costs"
        request = _request(
            "operator-costs", target, workflow_key(workflow_id), context, is_per_caller=True
        )
        return self._record_hit(await self._costs.read(request))

    async def list_page(
        self, workflow_id: int, query: v1.ListQuery, context: CallContext
    ) -> v1.ExecutionPage:
        """Never cached: people list executions, each time another part of the list."""
        path = f"/v1/workflows/{workflow_id}/executions"
        target = build_target(path, msgspec.to_builtins(query))
        for _ in range(MAX_REREADS):
            generation = self._cache.generation(workflow_key(workflow_id))
            reply = await self._central.read("list", target, context)
            page = decode_response(reply.body, _page)
            for row in page.executions:
                apply_pending(row, await self._spool.waiting(row.execution_id))
            if generation.is_valid:
                break
        return page

    def _record_hit(self, result: ReadResult[ValueT]) -> ReadResult[ValueT]:
        labels = result.label, result.cache_status, result.reason
        self._metrics.cache_requests.labels(*labels).inc()
        return result

    # Coherence with the sidecar's own writes

    def on_create(self, binding: Binding, *grants: Grant, asked_at: float) -> None:
        """A create has returned: its caller may read the execution."""
        for grant in grants:
            digest, user_id, expires_at = grant.token_digest, grant.user_id, grant.expires_at
            self._access.grant(digest, binding.execution_id, user_id, expires_at, asked_at)
        if binding.created_here:
            self._cache.on_create(binding.execution_id, binding.workflow_id)
        else:
            self._cache.invalidate(binding.workflow_id, [binding.execution_id])

    def invalidate(self, workflow_id: int | None, execution_ids: Sequence[int] = ()) -> None:
        """A forwarded call changed these at central (deleted, bookmarked, cleared, closed)."""
        self._cache.invalidate(workflow_id, execution_ids)

    def on_append(self, execution_id: int) -> None:
        """A write is durable; it has not been acknowledged yet."""
        self._cache.on_write(execution_id)
        self._long_polls.notify(execution_id)

    def on_settled(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None:
        """Writes are no longer pending: committed, or refused."""
        self._cache.on_settled(entries, records)
        for execution_id in {record.execution_id for record in records}:
            self._long_polls.notify(execution_id)

    def invalidate_all(self) -> None:
        """Writes were settled, and the cached values do not contain them for certain."""
        self._cache.clear()
        self._long_polls.notify_all()


def _request(
    label: str,
    target: str,
    resource: Hashable,
    context: CallContext,
    call: str | None = None,
    *,
    is_per_caller: bool = False,
) -> ReadRequest:
    digest = token_digest(context.token or "")
    return ReadRequest(label, call or label, target, resource, context, digest, is_per_caller)


def _registry_request(label: str, execution_id: int, context: CallContext) -> ReadRequest:
    return _request(label, uris_target(execution_id), execution_id, context, "uris")


def build_target(path: str, parameters: dict[str, Any]) -> str:
    """Path and query as they are sent to central; absent parameters are left out."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path
