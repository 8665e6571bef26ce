"""Reads: from memory or through it from central, with the sidecar's own waiting writes laid over.

Two kinds of values are remembered. An execution's *registry* of URIs is kept for a minute:
URIs are written once. *Rows* (an execution, a workflow's latest one) change while a run goes
on, so they are kept for moments and then compared with central's by ETag. How both stay
coherent with the sidecar's own writes is in `cache/read_through.py` and, below, in what
`Reads` does when a write is appended or settles.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any
from urllib.parse import urlencode

import msgspec

from sidecar import operations, wire
from sidecar.cache.access import AccessMemory, workflow_key
from sidecar.cache.arrivals import Arrivals
from sidecar.cache.read_through import ATTEMPTS_MAX, PATIENCE_S, Asked, ReadThrough, Seen
from sidecar.cache.registry import Registry
from sidecar.cache.store import Store
from sidecar.metrics import Metrics
from sidecar.overlay import Row, lay_over, registry_of_answer, registry_with, row_with
from sidecar.problems import ConsoleNotFound, ResultUriNotFound
from sidecar.spool.entry import Entry, WriteRecord, WriteState
from sidecar.spool.permits import Binding
from sidecar.spool.spool import Spool
from sidecar.upstream.central import Central
from sidecar.upstream.client import CallContext

REGISTRY_TTL_S = 60.0
"""How long a deletion made elsewhere (the dashboard) may stay unseen."""
ROWS_SHARE = 0.25
"""Of the room for remembered values: a row is small, and a pod looks at few workflows."""
_costs = msgspec.json.Decoder(wire.LatestCosts)
_page = msgspec.json.Decoder(wire.ExecutionPage)


class Reads:
    """What the CU reads. Raises the problems of the calls it makes."""

    def __init__(
        self,
        spool: Spool,
        central: Central,
        access: AccessMemory,
        metrics: Metrics,
        *,
        max_bytes: int,
        row_ttl_s: float,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._spool = spool
        self._central = central
        self._access = access
        self._metrics = metrics
        self._arrivals = Arrivals(sleep)
        evicted = metrics.cache_evictions.labels("size").inc
        self._registries = ReadThrough[Registry](
            Store(int(max_bytes * (1 - ROWS_SHARE)), monotonic, evicted),
            access,
            central,
            spool,
            ttl_s=REGISTRY_TTL_S,
            decode=registry_of_answer,
            lay_over=registry_with,
            is_complete=self._is_sole_writer,
            patience_s=patience_s,
        )
        self._rows = ReadThrough[Row](
            Store(int(max_bytes * ROWS_SHARE), monotonic, evicted),
            access,
            central,
            spool,
            ttl_s=row_ttl_s,
            decode=Row.of_answer,
            lay_over=row_with,
            execution_of=lambda row: row.execution.execution_id,
            patience_s=patience_s,
        )
        spool.on_append = self.appended

    @property
    def size_bytes(self) -> float:
        return self._registries.store.size_bytes + self._rows.store.size_bytes

    @property
    def waiter_count(self) -> int:
        """Long polls that are held."""
        return self._arrivals.waiter_count

    # Registries

    async def uris(self, execution_id: int, context: CallContext) -> Seen[Registry]:
        seen = await self._registries.read(_registry_of(execution_id, context))
        return self._counted("uris", seen)

    async def result_uri(
        self, execution_id: int, query: wire.ResultUriQuery, context: CallContext
    ) -> tuple[wire.ResultUri, Seen[Registry]]:
        """Raises `ResultUriNotFound` when the port has no result, after `query.wait` seconds."""
        try:
            return await self._result_uri(execution_id, query, context)
        except ResultUriNotFound:
            if not query.wait:
                raise
        with self._arrivals.waiting(execution_id, self._look(execution_id, context)) as arrived:
            try:
                async with asyncio.timeout(query.wait):
                    while True:
                        try:
                            return await self._result_uri(
                                execution_id, query, context, from_memory=True
                            )
                        except ResultUriNotFound:
                            await arrived.wait()
                            arrived.clear()
            except TimeoutError:
                return await self._result_uri(execution_id, query, context)

    async def _result_uri(
        self,
        execution_id: int,
        query: wire.ResultUriQuery,
        context: CallContext,
        *,
        from_memory: bool = False,
    ) -> tuple[wire.ResultUri, Seen[Registry]]:
        """`from_memory`: what is remembered is news enough, even if the port is not in it."""

        def find(registry: Registry) -> str | None:
            return registry.external_port(query.operator_id, query.port_id, query.internal)

        seen = await self._registries.read(
            _registry_of(execution_id, context), lambda r: from_memory or find(r) is not None
        )
        port = find(self._counted("result-uri", seen).value)
        if port is None:
            raise ResultUriNotFound(
                f"execution {execution_id}, operator {query.operator_id}, port {query.port_id}"
            )
        uri, size = seen.value.results[port]
        return wire.ResultUri(uri, port, size), seen

    def _look(self, execution_id: int, context: CallContext) -> Callable[[], Awaitable[bool]]:
        async def look() -> bool:
            if self._is_sole_writer(execution_id):
                return False  # what appears there is written here, and told at once
            known = self._registries.store.get(execution_id)
            now = await self._registries.refresh(_registry_of(execution_id, context))
            return known is None or known.value != now

        return look

    async def console(
        self, execution_id: int, operator_id: str, context: CallContext
    ) -> tuple[wire.ConsoleUri, Seen[Registry]]:
        """Raises `ConsoleNotFound` when the operator has printed nothing yet."""
        seen = await self._registries.read(
            _registry_of(execution_id, context), lambda r: operator_id in r.consoles
        )
        stored = self._counted("console", seen).value.consoles.get(operator_id)
        if stored is None:
            raise ConsoleNotFound(f"execution {execution_id}, operator {operator_id}")
        return wire.ConsoleUri(*stored), seen

    # Rows

    async def execution(
        self, execution_id: int, context: CallContext, *, workflow_id: int | None = None
    ) -> Seen[Row]:
        """With `workflow_id` it must be an execution of that workflow."""
        prefix = f"/v1/workflows/{workflow_id}" if workflow_id is not None else "/v1"
        target = f"{prefix}/executions/{execution_id}"
        asked = Asked("execution", target, target, execution_id, context, execution_id)
        return self._counted("execution", await self._rows.read(asked))

    async def latest(
        self, workflow_id: int, computing_unit_id: int | None, context: CallContext
    ) -> Seen[Row]:
        """The workflow's newest execution, on one computing unit or on any."""
        target = target_of(
            f"/v1/workflows/{workflow_id}/executions/latest",
            {"computing_unit_id": computing_unit_id},
        )
        asked = Asked("latest", target, target, workflow_key(workflow_id), context)
        return self._counted("latest", await self._rows.read(asked))

    async def costs(self, workflow_id: int, context: CallContext) -> tuple[wire.LatestCosts, bool]:
        """What the operators of the latest run that central knows as completed cost."""
        target = f"/v1/workflows/{workflow_id}/operator-costs"
        costs = _costs.decode((await self._central.read("operator-costs", target, context)).body)
        waiting = await self._spool.waiting(costs.execution_id)
        for entry in waiting:
            operations.overlay_costs(costs, msgspec.json.decode(entry.document))
        return costs, bool(waiting)

    async def page(
        self, workflow_id: int, query: wire.ListQuery, context: CallContext
    ) -> wire.ExecutionPage:
        """Never remembered: it is asked for by people, each time another part of it."""
        path = f"/v1/workflows/{workflow_id}/executions"
        target = target_of(path, msgspec.to_builtins(query))
        for _ in range(ATTEMPTS_MAX):
            generation = self._rows.store.generation(workflow_key(workflow_id))
            page = _page.decode((await self._central.read("list", target, context)).body)
            for row in page.executions:
                lay_over(row, await self._spool.waiting(row.execution_id))
            if generation.holds:
                break
        return page

    def _is_sole_writer(self, execution_id: Hashable) -> bool:
        if not isinstance(execution_id, int):
            return False
        binding = self._spool.permits.binding(execution_id)
        return binding is not None and binding.created_here and binding.ended_at_ms is None

    def _counted(self, resource: str, seen: Seen[Any]) -> Seen[Any]:
        self._metrics.cache_requests.labels(resource, seen.source).inc()
        return seen

    # Coherence with the sidecar's own writes

    def created(self, binding: Binding, digest: bytes, user_id: int, expires_at: int) -> None:
        """A new execution: its registry is known to be empty, and its maker may read it."""
        self._access.allow(digest, binding.execution_id, user_id, expires_at)
        store = self._registries.store
        generation = store.generation(binding.execution_id)
        store.put(
            binding.execution_id,
            Registry(),
            generation,
            resource=binding.execution_id,
            complete=True,
        )
        self.changed(binding.workflow_id)

    def changed(self, workflow_id: int | None, execution_ids: Sequence[int] = ()) -> None:
        """A call of ours changed these at central (created, deleted, bookmarked, cleared)."""
        resources = {r for execution_id in execution_ids for r in self._resources(execution_id)}
        if workflow_id is not None:
            resources.add(workflow_key(workflow_id))
        for store in (self._registries.store, self._rows.store):
            for resource in resources:
                store.move(resource)
                for key in store.keys_of(resource):
                    store.forget(key)

    def appended(self, execution_id: int) -> None:
        """A write has become durable; its caller has not been told yet."""
        for resource in self._resources(execution_id):
            self._registries.store.move(resource)
            self._rows.store.move(resource)
        self._arrivals.notify(execution_id)

    def settled(self, entries: Sequence[Entry], records: Sequence[WriteRecord]) -> None:
        """Applies what central committed to the remembered values."""
        committed = {record.seq for record in records if record.state is WriteState.COMMITTED}
        for execution_id in {record.execution_id for record in records}:
            applied = [e for e in entries if e.execution_id == execution_id and e.seq in committed]
            self.appended(execution_id)
            self._apply(execution_id, applied)

    def _apply(self, execution_id: int, applied: Sequence[Entry]) -> None:
        if not applied:
            return
        registries, rows = self._registries.store, self._rows.store
        cached = registries.get(execution_id)
        if cached is not None:
            registries.replace(execution_id, registry_with(cached.value, applied))
        for resource in self._resources(execution_id):
            for key in rows.keys_of(resource):
                row = rows.get(key)
                if row is not None and row.value.is_of(execution_id):
                    # Good enough to be shown stale; what else it did (times) central knows.
                    rows.replace(key, row_with(row.value, applied), must_revalidate=True)

    def _resources(self, execution_id: int) -> tuple[Hashable, ...]:
        binding = self._spool.permits.binding(execution_id)
        if binding is not None:
            return (execution_id, workflow_key(binding.workflow_id))
        # Lost with this very settlement: whatever shows the execution belongs to its workflow.
        shown = self._rows.store.values()
        return (execution_id, *{c.resource for c in shown if c.value.is_of(execution_id)})


def _registry_of(execution_id: int, context: CallContext) -> Asked:
    target = f"/v1/executions/{execution_id}/uris"
    return Asked("uris", execution_id, target, execution_id, context, execution_id)


def target_of(path: str, parameters: dict[str, Any]) -> str:
    """Path and query as they are sent to central; absent parameters are left out."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path
