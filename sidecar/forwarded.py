"""Calls that central answers while the CU waits: nothing is kept for later or remembered.

The CU's order holds all the same. A sync write follows what waits in the spool for the same
executions, and a plan is asked for again if writes to the execution it names were still on
their way. Both wait for delivery, which is at work anyway. So do reads that central answers by
the statuses it knows of (which run completed last, which are running): a read is asked for first,
so that nobody waits for what he may not see.
"""

import asyncio
from collections.abc import Iterable

import msgspec

from sidecar.cache.pending import CachedCosts, apply_pending
from sidecar.cache.read_through import ReadResult
from sidecar.delivery.loop import Delivery
from sidecar.problems import DeliveryTimeout, UpstreamProblem
from sidecar.reads import Reads
from sidecar.spool.bindings import Boot
from sidecar.spool.entry import Priority
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import Central
from sidecar.upstream.client import CallContext
from sidecar.wire import forwarded, v1

SETTLE_WAIT_S = 10.0
"""How long a sync call waits for writes that came before it."""
STATUS_WAIT_S = 5.0
"""How long a read waits for statuses; then it is answered as central knows them."""

TERMINAL_ONLY = frozenset({Priority.TERMINAL})
STATUSES = frozenset({Priority.TERMINAL, Priority.STATUS})
NO_COMPLETED_RUN = "no-completed-run"

_deleted = msgspec.json.Decoder(forwarded.DeletedExecutions)
_bookmarked = msgspec.json.Decoder(forwarded.BookmarkedExecutions)
_expired = msgspec.json.Decoder(forwarded.ExpiredExecutions)
_closed = msgspec.json.Decoder(forwarded.ClosedExecutions)
_cleared = msgspec.json.Decoder(forwarded.ClearedExecutions)
_version = msgspec.json.Decoder(forwarded.Version)
_plan = msgspec.json.Decoder(forwarded.ExportPlan)


class ForwardedCalls:
    """Raises the problems of central, and `DeliveryTimeout` if earlier writes are held up."""

    def __init__(self, spool: Spool, delivery: Delivery, central: Central, reads: Reads) -> None:
        self._spool = spool
        self._delivery = delivery
        self._central = central
        self._reads = reads
        self._boot_lock = asyncio.Lock()

    async def register_boot(
        self,
        unit_id: int,
        request: forwarded.BootRequest,
        idempotency_key: str | None,
        context: CallContext,
    ) -> forwarded.ClosedExecutions:
        """Central ends the runs of earlier master processes; every later binding names this boot.

        The spool records the boot before the response, so an earlier master that still runs can
        create nothing any more. Boots are registered one at a time, in order of arrival: of a
        master that died while it booted and its successor, the successor's is the current one
        at central and in the spool. A repeated boot gets the same response.
        """
        target, body = f"/v1/computing-units/{unit_id}/boots", _body(request)
        async with self._boot_lock:
            reply = await self._central.post("boot", target, body, idempotency_key, context)
            result = _closed.decode(reply.body)
            await self._spool.record_boot(Boot(unit_id, request.boot_id), result.closed)
        self._reads.invalidate(None, result.closed)
        return result

    async def delete(
        self, selection: forwarded.Selection, idempotency_key: str | None, context: CallContext
    ) -> forwarded.DeletedExecutions:
        await self._await_settled(selection.execution_ids)
        reply = await self._central.post(
            "delete", "/v1/executions/delete", _body(selection), idempotency_key, context
        )
        answer = _deleted.decode(reply.body)
        self._reads.invalidate(selection.workflow_id, selection.execution_ids)
        return answer

    async def bookmark(
        self,
        selection: forwarded.BookmarkSelection,
        idempotency_key: str | None,
        context: CallContext,
    ) -> forwarded.BookmarkedExecutions:
        await self._await_settled(selection.execution_ids)
        reply = await self._central.post(
            "bookmark", "/v1/executions/bookmark", _body(selection), idempotency_key, context
        )
        self._reads.invalidate(selection.workflow_id, selection.execution_ids)
        return _bookmarked.decode(reply.body)

    async def expired(self, target: str, context: CallContext) -> forwarded.ExpiredExecutions:
        """The ended runs of one unit; `target` is path and query."""
        answer = _expired.decode((await self._central.read("expired", target, context)).body)
        for row in answer.executions:
            apply_pending(row, await self._spool.waiting(row.execution_id))
        return answer

    async def clear(
        self,
        target: str,
        selection: forwarded.ExpiredSelection,
        idempotency_key: str | None,
        context: CallContext,
    ) -> forwarded.ClearedExecutions:
        await self._await_settled(selection.execution_ids)
        reply = await self._central.post(
            "clear", target, _body(selection), idempotency_key, context
        )
        self._reads.invalidate(None, selection.execution_ids)
        return _cleared.decode(reply.body)

    async def latest_version(self, workflow_id: int, context: CallContext) -> forwarded.Version:
        target = f"/v1/workflows/{workflow_id}/versions/latest"
        return _version.decode((await self._central.read("version", target, context)).body)

    async def plan_export(
        self, workflow_id: int, request: forwarded.ExportRequest, context: CallContext
    ) -> forwarded.ExportPlan:
        target, body = f"/v1/workflows/{workflow_id}/export-plan", _body(request)
        plan = _plan.decode(
            (await self._central.post_query("export-plan", target, body, context)).body
        )
        if plan.execution_id is not None and await self._spool.waiting(plan.execution_id):
            await self._await_settled([plan.execution_id])
            reply = await self._central.post_query("export-plan", target, body, context)
            plan = _plan.decode(reply.body)
        return plan

    async def costs(self, workflow_id: int, context: CallContext) -> ReadResult[CachedCosts]:
        """Of the run that completed last, one whose end has yet to be delivered included."""
        try:
            seen = await self._reads.costs(workflow_id, context)
        except UpstreamProblem as problem:
            if problem.slug != NO_COMPLETED_RUN or not await self._statuses_arrive(
                workflow_id, TERMINAL_ONLY
            ):
                raise
            return await self._reads.costs(workflow_id, context)
        if await self._statuses_arrive(workflow_id, TERMINAL_ONLY):
            return await self._reads.costs(workflow_id, context)
        return seen

    async def page(
        self, workflow_id: int, query: v1.ListQuery, context: CallContext
    ) -> v1.ExecutionPage:
        """Executions by the statuses they have, those that have yet to be delivered included."""
        page = await self._reads.list_page(workflow_id, query, context)
        if query.status is not None and await self._statuses_arrive(workflow_id, STATUSES):
            return await self._reads.list_page(workflow_id, query, context)
        return page

    async def _statuses_arrive(self, workflow_id: int, urgencies: frozenset[Priority]) -> bool:
        """Whether statuses of the workflow's runs were on their way and are at central now."""
        newest = 0
        for execution_id in self._spool.queues.lengths() if self._central.is_reachable else ():
            binding = self._spool.bindings.binding(execution_id)
            if binding is not None and binding.workflow_id == workflow_id:
                waiting = await self._spool.waiting(execution_id)
                seqs = [entry.seq for entry in waiting if entry.priority in urgencies]
                newest = max(newest, *seqs) if seqs else newest
        ended = newest and await self._delivery.wait_settled(newest, STATUS_WAIT_S)
        return bool(ended)

    async def _await_settled(self, execution_ids: Iterable[int]) -> None:
        """Returns once what waits now for these executions is settled."""
        for execution_id in sorted(set(execution_ids)):
            waiting = await self._spool.waiting(execution_id)
            if waiting and not await self._delivery.wait_settled(waiting[-1].seq, SETTLE_WAIT_S):
                raise DeliveryTimeout(
                    f"earlier writes to execution {execution_id} still wait for central"
                )


def _body(request: msgspec.Struct) -> bytes:
    return msgspec.json.encode(request)
