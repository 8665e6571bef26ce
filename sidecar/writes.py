"""Writes: their authorization, their acknowledgement and their state afterwards.

A write is authorized by the grant that central gave this token for this execution; the first
write to an execution, or with a new token, binds it at central. An authorized, valid write is
made durable in the spool, and only then acknowledged; `sidecar.delivery` brings it to central.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec

from kit.http.problems import Problem
from kit.texera.statuses import TERMINAL_CODES
from sidecar.cache.access import AccessCache, token_digest
from sidecar.delivery.loop import Delivery
from sidecar.metrics import Metrics
from sidecar.problems import (
    CentralUnavailable,
    DeliveryTimeout,
    TokenInvalid,
    UpstreamProblem,
    WriteNotFound,
)
from sidecar.reads import Reads
from sidecar.spool.bindings import NO_EXPIRY, Binding, Grant
from sidecar.spool.entry import NewEntry, WriteRecord, WriteState
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import Central, decode_response
from sidecar.upstream.client import CallContext, CentralResponse
from sidecar.upstream.run_tokens import new_run_token, run_named_by
from sidecar.upstream.single_flight import SingleFlight
from sidecar.user_limits import UserLimits
from sidecar.wire import v1

DELETE_WAIT_S = 30.0
"""How long a `DELETE …/uris` without `Prefer: wait=N` waits before it returns 504."""

_new_execution = msgspec.json.Decoder(v1.NewExecution)
_bound_execution = msgspec.json.Decoder(v1.BoundExecution)


class Writes:
    """What the CU writes. Raises the problems of the calls it makes."""

    def __init__(
        self,
        spool: Spool,
        delivery: Delivery,
        central: Central,
        reads: Reads,
        access: AccessCache,
        limits: UserLimits,
        metrics: Metrics,
    ) -> None:
        self._spool = spool
        self._delivery = delivery
        self._central = central
        self._reads = reads
        self._access = access
        self._limits = limits
        self._metrics = metrics
        self._bindings: SingleFlight[tuple[Binding, Grant]] = SingleFlight()

    async def create(
        self, new: v1.NewExecutionRequest, idempotency_key: str | None, context: CallContext
    ) -> v1.NewExecution:
        """Creates an execution at central and makes its binding durable before it returns.

        A replayed response may be of a create before the spool was lost: others may have written
        to the execution since, so it is bound like one that was created elsewhere.
        """
        body = self._create_body(new)
        reply = await self._central.create_execution(body, idempotency_key, context)
        created = decode_response(reply.body, _new_execution)
        is_new = not reply.is_replayed
        bound = decode_response(reply.body, _bound_execution)
        binding, grant = to_binding_and_grant(bound, reply, context, created_here=is_new)
        run_token = await self._new_run_token(created.execution_id) if new.run_token else None
        grants = [grant]
        if run_token is not None:
            digest = token_digest(run_token)
            grants.append(replace(grant, token_digest=digest, expires_at=NO_EXPIRY))
        # A repeat of an old create must not reopen an execution that has ended.
        if self._spool.bindings.binding(binding.execution_id) is None:
            await asyncio.shield(self._spool.bindings.record(binding, *grants))
            self._reads.on_create(binding, *grants, asked_at=reply.asked_at)
        elif run_token is not None:
            await asyncio.shield(self._spool.bindings.record_grant(grants[-1]))
        return msgspec.structs.replace(created, run_token=run_token)

    def _create_body(self, new: v1.NewExecutionRequest) -> bytes:
        """As central knows it, with the computing unit's current boot where it is known."""
        fields = msgspec.structs.asdict(new)
        del fields["run_token"]
        boot = self._spool.bindings.boot
        if boot is not None and new.computing_unit_id == boot.computing_unit_id:
            fields["boot_id"] = boot.boot_id
        return msgspec.json.encode(fields)

    async def _new_run_token(self, execution_id: int) -> str | None:
        """None if central issues none for this run."""
        try:
            with suppress(CentralUnavailable):  # made up for by the next read or renewal
                await self._central.run_tokens.renew(execution_id)
        except UpstreamProblem:
            return None
        return new_run_token(execution_id)

    def run_of(self, token: str) -> int | None:
        """The execution of a run token; None for a user's. Raises `TokenInvalid` for one that this
        sidecar has not issued, or that ended with its binding."""
        execution_id = run_named_by(token)
        if execution_id is None:
            return None
        if not self._spool.bindings.has_run_token(token_digest(token), execution_id):
            raise TokenInvalid("the run token is not one of a run that is bound here")
        return execution_id

    async def authorize(self, execution_id: int, context: CallContext) -> tuple[Binding, Grant]:
        """The execution's binding and this token's grant, from central if they are not known."""
        cached_permit = self.cached_permit(execution_id, context)
        if cached_permit is not None:
            return cached_permit
        if context.run_id is not None:
            raise TokenInvalid("the run token ended with the binding of its run")
        digest = token_digest(context.token or "")
        return await self._bindings.do(
            (digest, execution_id), lambda: self._bind(execution_id, context)
        )

    def cached_permit(
        self, execution_id: int, context: CallContext
    ) -> tuple[Binding, Grant] | None:
        """What `authorize` returns, if it is known without a call to central."""
        digest = token_digest(context.token or "")
        binding = self._spool.bindings.binding(execution_id)
        grant = self._spool.bindings.grant(digest, execution_id)
        return (binding, grant) if binding is not None and grant is not None else None

    async def _bind(self, execution_id: int, context: CallContext) -> tuple[Binding, Grant]:
        boot = self._spool.bindings.boot
        boot_id = boot.boot_id if boot is not None else None
        reply = await self._central.bind(execution_id, context, boot_id)
        bound = decode_response(reply.body, _bound_execution)
        binding, grant = to_binding_and_grant(bound, reply, context, created_here=False)
        known = self._spool.bindings.binding(execution_id)
        is_over = bound.status_code in TERMINAL_CODES
        if known is not None and (known.ended_at_ms is None or is_over):
            binding = known  # else it was lost in between, and another source may have written
        await self._spool.bindings.record(binding, grant)
        self._access.grant(
            grant.token_digest, execution_id, grant.user_id, grant.expires_at, reply.asked_at
        )
        return binding, grant

    async def _append(self, new: NewEntry) -> int:
        """Makes a write durable and returns its sequence number."""
        self._limits.check_write(new)
        clock = self._metrics.requests.clock
        started_at = clock()
        seq = await self._spool.append(new)
        self._metrics.acknowledgement.observe(clock() - started_at)
        self._metrics.writes.labels(new.op, WriteState.DURABLE).inc()
        return seq

    async def submit(self, new: NewEntry, wait_s: float | None) -> tuple[int, v1.WriteAnswer]:
        """Makes a write durable; with `wait_s`, waits that long for central to commit it.

        Returns the HTTP status and body. A refusal within the wait is raised as its problem.
        """
        # A write that its caller waits for is not held back to be coalesced.
        seq = await self._append(replace(new, coalesce_key=None) if wait_s else new)
        write_id = self._spool.write_id(seq)
        if wait_s:
            record = await self._delivery.wait_settled(seq, wait_s)
            if record is not None:
                _raise_refusal(record, write_id)
                return 200, v1.WriteAnswer(write_id, WriteState.COMMITTED)
        return 202, v1.WriteAnswer(write_id, WriteState.DURABLE)

    async def submit_and_wait(self, new: NewEntry, wait_s: float | None) -> dict[str, Any]:
        """For writes whose response only central has. Raises `DeliveryTimeout` with the id."""
        seq = await self._append(new)
        write_id = self._spool.write_id(seq)
        record = await self._delivery.wait_settled(seq, wait_s or DELETE_WAIT_S)
        if record is None:
            raise DeliveryTimeout("central has not committed the write yet", write_id=write_id)
        _raise_refusal(record, write_id)
        return record.removed or {"results": [], "console": []}

    # The state of writes

    def counted_user(self, token: str) -> int | None:
        """Whose limits a call with this token counts against: the user whom central named for it,
        however long ago; None if it never did."""
        digest = token_digest(token)
        return self._access.last_user_of(digest) or self._spool.bindings.user_of(digest)

    def computing_unit_id(self, execution_id: int | None) -> int | None:
        """The unit of the execution, or else the one that registered its boot here."""
        bindings = self._spool.bindings
        binding = bindings.binding(execution_id) if execution_id is not None else None
        found = binding or bindings.boot
        return found.computing_unit_id if found is not None else None

    async def user_of(self, context: CallContext) -> int:
        """The token's user, from central if it is not known."""
        digest = token_digest(context.token or "")
        known = self._access.user_of(digest) or self._spool.bindings.user_of(digest)
        if known is not None:
            return known
        reply = await self._central.identify(context)
        if reply.user_id is None or reply.token_expires_at is None:
            raise CentralUnavailable("central did not identify the token", retry_after_s=1)
        self._access.record_user(digest, reply.user_id, reply.token_expires_at, reply.asked_at)
        return reply.user_id

    async def find(self, write_id: str, context: CallContext) -> v1.WriteAnswer:
        user_id = await self.user_of(context)
        seq = self._spool.seq_of(write_id)
        record = await self._spool.find(seq) if seq is not None else None
        is_own = record is not None and record.user_id == user_id
        if record is None or not is_own or context.run_id not in {None, record.execution_id}:
            raise WriteNotFound(f"write {write_id}")
        return self._describe(record)

    async def list_writes(self, query: v1.WritesQuery, context: CallContext) -> v1.Writes:
        user_id = await self.user_of(context)
        state = WriteState(query.state) if query.state is not None else None
        records = await self._spool.list_writes(user_id, state, query.limit)
        return v1.Writes([self._describe(record) for record in records])

    async def flush(self, timeout_s: float, context: CallContext) -> v1.FlushAnswer:
        """Raises `DeliveryTimeout` with the number of writes that are still pending."""
        await self.user_of(context)
        waiting = await self._delivery.flush(timeout_s)
        if waiting:
            raise DeliveryTimeout(f"{waiting} writes are still pending", waiting=waiting)
        return v1.FlushAnswer(delivered=True, waiting=0)

    def _describe(self, record: WriteRecord) -> v1.WriteAnswer:
        return v1.WriteAnswer(
            self._spool.write_id(record.seq),
            record.state,
            record.execution_id,
            record.op,
            record.problem,
            record.removed,
        )


def to_binding_and_grant(
    bound: v1.BoundExecution, reply: CentralResponse, context: CallContext, *, created_here: bool
) -> tuple[Binding, Grant]:
    """A binding and a grant as the spool keeps them; `bound` is the body of `reply`."""
    binding = Binding(
        bound.execution_id,
        bound.workflow_id,
        bound.computing_unit_id,
        bound.user_id,
        bound.warehouse,
        created_here,
    )
    # Without an expiry the grant serves this call only.
    expires_at = reply.token_expires_at or 0
    digest = token_digest(context.token or "")
    return binding, Grant(digest, bound.execution_id, bound.user_id, expires_at)


def _raise_refusal(record: WriteRecord, write_id: str) -> None:
    if record.state is WriteState.REFUSED:
        problem: Problem = UpstreamProblem(_document(record), {})
        problem.members["write_id"] = write_id
        raise problem


def _document(record: WriteRecord) -> dict[str, Any]:
    fallback = {"type": "refused", "title": "Refused", "status": 409, "detail": ""}
    return fallback | (record.problem or {})
