"""Forwarded calls: central handles them while the caller waits; nothing is queued or cached.

The CU's order holds all the same. A forwarded write follows the pending writes of the same
executions, and an export plan is read again if writes to its execution were pending. So are
reads that central selects by status (the last completed run, a list of running ones). What is
pending is noted before the read, as it may settle behind the read. Nobody waits for what they may
not see: only after the read pending statuses are awaited, and the read is repeated. A write waits
for pending writes of its own caller, or of a unit on which central lets the caller act, once
central has named the token's user. So tokens made up learn nothing of what is pending.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from sidecar.cache.pending import CachedCosts, apply_pending
from sidecar.cache.read_through import ReadResult
from sidecar.delivery.loop import Delivery
from sidecar.problems import DeliveryTimeout, UpstreamProblem
from sidecar.reads import Reads
from sidecar.spool.bindings import Boot
from sidecar.spool.entry import Priority
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import Central, decode_response
from sidecar.upstream.client import CallContext
from sidecar.wire import forwarded, v1

SETTLE_WAIT_S = 10.0
"""How long a forwarded write waits for earlier writes to settle."""
STATUS_WAIT_S = 5.0
"""How long a read waits for statuses to settle; then it shows those that central knows."""

TERMINAL = frozenset({Priority.TERMINAL})
STATUSES = frozenset({Priority.TERMINAL, Priority.STATUS})
NO_COMPLETED_RUN = "no-completed-run"
NO_EXPIRED = "ttl_seconds=300000000&limit=1"
"""A query of a unit's expired executions for its authorization alone: none is that old."""

_deleted = msgspec.json.Decoder(forwarded.DeletedExecutions)
_bookmarked = msgspec.json.Decoder(forwarded.BookmarkedExecutions)
_expired = msgspec.json.Decoder(forwarded.ExpiredExecutions)
_closed = msgspec.json.Decoder(forwarded.ClosedExecutions)
_cleared = msgspec.json.Decoder(forwarded.ClearedExecutions)
_version = msgspec.json.Decoder(forwarded.Version)
_plan = msgspec.json.Decoder(forwarded.ExportPlan)


class ForwardedCalls:
    """Raises central's problems, and `DeliveryTimeout` if earlier writes do not settle."""

    def __init__(
        self,
        spool: Spool,
        delivery: Delivery,
        central: Central,
        reads: Reads,
        identify: Callable[[CallContext], Awaitable[int]],
    ) -> None:
        """`identify` returns the user of the caller's token, or raises central's refusal."""
        self._identify = identify
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
        target, body = f"/v1/computing-units/{unit_id}/boots", msgspec.json.encode(request)
        if context.user_id is None:
            await self._identify(context)  # tokens made up must not hold the lock
        async with self._boot_lock:
            reply = await self._central.post("boot", target, body, idempotency_key, context)
            result = decode_response(reply.body, _closed)
            await self._spool.bindings.end(result.closed, boot=Boot(unit_id, request.boot_id))
        self._reads.invalidate(None, result.closed)
        return result

    async def delete(
        self, selection: forwarded.Selection, idempotency_key: str | None, context: CallContext
    ) -> forwarded.DeletedExecutions:
        target = "/v1/executions/delete"
        body = await self._write("delete", target, selection, idempotency_key, context)
        return decode_response(body, _deleted)

    async def bookmark(
        self,
        selection: forwarded.BookmarkSelection,
        idempotency_key: str | None,
        context: CallContext,
    ) -> forwarded.BookmarkedExecutions:
        target = "/v1/executions/bookmark"
        body = await self._write("bookmark", target, selection, idempotency_key, context)
        return decode_response(body, _bookmarked)

    async def clear(
        self,
        unit_id: int,
        target: str,
        selection: forwarded.ExpiredSelection,
        idempotency_key: str | None,
        context: CallContext,
    ) -> forwarded.ClearedExecutions:
        """`target` is that of the unit's expired executions."""
        if self._spool.queues.entry_count:
            # Whoever may act on the unit may see what is pending for its runs.
            await self._fetch_expired(f"{target}?{NO_EXPIRED}", context)
            await self._await_settled(
                execution_id
                for execution_id in selection.execution_ids
                if (binding := self._spool.bindings.binding(execution_id)) is not None
                and binding.computing_unit_id == unit_id
            )
        body = msgspec.json.encode(selection)
        call = "clear", f"{target}/clear", body, idempotency_key, context
        reply = await self._central.post(*call)
        self._reads.invalidate(None, selection.execution_ids)
        return decode_response(reply.body, _cleared)

    async def _write(
        self,
        call: str,
        target: str,
        selection: forwarded.Selection | forwarded.BookmarkSelection,
        idempotency_key: str | None,
        context: CallContext,
    ) -> bytes:
        """A write to executions of its caller: central lets nobody else."""
        if self._spool.queues.entry_count:
            await self._await_settled(selection.execution_ids, await self._identify(context))
        body = msgspec.json.encode(selection)
        reply = await self._central.post(call, target, body, idempotency_key, context)
        self._reads.invalidate(selection.workflow_id, selection.execution_ids)
        return reply.body

    async def expired(self, target: str, context: CallContext) -> forwarded.ExpiredExecutions:
        """The expired runs of one unit; `target` is path and query."""
        queued = self._spool.queues.lengths()
        expired = await self._fetch_expired(target, context)
        concerned = [e.execution_id for e in expired.executions if e.execution_id in queued]
        if not concerned:
            return expired
        pending = {
            execution_id: await self._spool.waiting(execution_id) for execution_id in concerned
        }
        expired = await self._fetch_expired(target, context)  # what settled meanwhile is in it
        for row in expired.executions:
            apply_pending(row, pending.get(row.execution_id, ()))
        return expired

    async def _fetch_expired(
        self, target: str, context: CallContext
    ) -> forwarded.ExpiredExecutions:
        reply = await self._central.read("expired", target, context)
        return decode_response(reply.body, _expired)

    async def latest_version(self, workflow_id: int, context: CallContext) -> forwarded.Version:
        target = f"/v1/workflows/{workflow_id}/versions/latest"
        reply = await self._central.read("version", target, context)
        return decode_response(reply.body, _version)

    async def plan_export(
        self, workflow_id: int, request: forwarded.ExportRequest, context: CallContext
    ) -> forwarded.ExportPlan:
        queued = self._spool.queues.lengths()
        plan = await self._fetch_plan(workflow_id, request, context)
        if plan.execution_id is not None and plan.execution_id in queued:
            await self._await_settled([plan.execution_id])
            plan = await self._fetch_plan(workflow_id, request, context)
        return plan

    async def _fetch_plan(
        self, workflow_id: int, request: forwarded.ExportRequest, context: CallContext
    ) -> forwarded.ExportPlan:
        target, body = f"/v1/workflows/{workflow_id}/export-plan", msgspec.json.encode(request)
        reply = await self._central.post_query("export-plan", target, body, context)
        return decode_response(reply.body, _plan)

    async def costs(self, workflow_id: int, context: CallContext) -> ReadResult[CachedCosts]:
        """Of the latest completed run, even if its end is still pending."""
        newest = await self._newest_pending(workflow_id, TERMINAL, context)
        try:
            result = await self._reads.costs(workflow_id, context)
        except UpstreamProblem as problem:
            if problem.slug != NO_COMPLETED_RUN:
                raise
            if not await self._is_settled(newest):
                raise
        else:
            if not await self._is_settled(newest):
                return result
        return await self._reads.costs(workflow_id, context)

    async def list_page(
        self, workflow_id: int, query: v1.ListQuery, context: CallContext
    ) -> v1.ExecutionPage:
        """Executions selected by their statuses, pending ones included."""
        newest = 0
        if query.status is not None:
            newest = await self._newest_pending(workflow_id, STATUSES, context)
        page = await self._reads.list_page(workflow_id, query, context)
        if await self._is_settled(newest):
            return await self._reads.list_page(workflow_id, query, context)
        return page

    async def _newest_pending(
        self, workflow_id: int, priorities: frozenset[Priority], context: CallContext
    ) -> int:
        """The newest pending write of these priorities to the workflow's runs, or 0."""
        if not self._central.is_reachable or not self._spool.queues.entry_count:
            return 0
        if context.user_id is None:
            await self._identify(context)  # tokens made up must not cost reads of the spool
        newest = 0
        for execution_id in self._spool.queues.lengths():
            binding = self._spool.bindings.binding(execution_id)
            if binding is None or binding.workflow_id != workflow_id:
                continue
            for entry in await self._spool.waiting(execution_id):
                if entry.priority in priorities:
                    newest = max(newest, entry.seq)
        return newest

    async def _is_settled(self, newest: int) -> bool:
        """Whether there was such a write and it settles in time."""
        return newest > 0 and await self._delivery.wait_settled(newest, STATUS_WAIT_S) is not None

    async def _await_settled(
        self, execution_ids: Iterable[int], user_id: int | None = None
    ) -> None:
        """Waits until the writes that are pending now for these executions have settled; with a
        `user_id`, those of this user."""
        for execution_id in sorted(set(execution_ids)):
            pending = await self._spool.waiting(execution_id)
            if user_id is not None:
                pending = [entry for entry in pending if entry.user_id == user_id]
            if pending and not await self._delivery.wait_settled(pending[-1].seq, SETTLE_WAIT_S):
                raise DeliveryTimeout(
                    f"earlier writes to execution {execution_id} are still pending"
                )
