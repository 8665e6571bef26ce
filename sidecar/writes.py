"""Writes: who may make them, and what they answer.

A write is admitted by central's recorded yes for this token and execution (a *grant*); the
first write to an execution, or with a new token, asks central for it. What is admitted and
valid is made durable, and only then acknowledged.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from kit.http.problems import Problem
from sidecar.cache.access import AccessCache, token_digest
from sidecar.cache.single_flight import SingleFlight
from sidecar.delivery.loop import Delivery
from sidecar.metrics import Metrics
from sidecar.problems import CentralUnavailable, DeliveryTimeout, UpstreamProblem, WriteNotFound
from sidecar.reads import Reads
from sidecar.spool.bindings import Binding, Grant
from sidecar.spool.entry import NewEntry, WriteRecord, WriteState
from sidecar.spool.spool import Spool
from sidecar.upstream.central_api import Central
from sidecar.upstream.client import CallContext, CentralResponse
from sidecar.user_limits import UserLimits
from sidecar.wire import v1

DELETE_WAIT_S = 30.0
"""How long a `DELETE …/uris` waits unless told (`Prefer`), before it answers 504."""


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
        *,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._spool = spool
        self._delivery = delivery
        self._central = central
        self._reads = reads
        self._access = access
        self._limits = limits
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._bindings: SingleFlight[tuple[Binding, Grant]] = SingleFlight()

    async def create(
        self, body: bytes, idempotency_key: str | None, context: CallContext
    ) -> v1.NewExecution:
        """Creates an execution at central and keeps its binding before it is answered."""
        body = self._with_boot(body)
        reply = await self._central.create_execution(body, idempotency_key, context)
        answer = reply.decode()
        binding, grant = to_binding_and_grant(answer, reply, context, created_here=True)
        # A repeat of an old create must not reopen what has ended or is known since.
        if self._spool.bindings.binding(binding.execution_id) is None:
            await asyncio.shield(self._spool.record_binding(binding, grant))
            self._reads.on_create(binding, grant.token_digest, grant.user_id, grant.expires_at)
        return msgspec.convert(answer, v1.NewExecution)

    def _with_boot(self, body: bytes) -> bytes:
        """The create's body with the boot it is made under, where its unit has told one."""
        boot, new = self._spool.boot, msgspec.json.decode(body)
        if boot is None or new["computing_unit_id"] != boot.computing_unit_id:
            return body
        return msgspec.json.encode(new | {"boot_id": boot.boot_id})

    async def authorize(self, execution_id: int, context: CallContext) -> tuple[Binding, Grant]:
        """The execution's binding, and central's yes for this token; asks for both if need be."""
        cached_permit = self.cached_permit(execution_id, context)
        if cached_permit is not None:
            return cached_permit
        digest = token_digest(context.token or "")
        return await self._bindings.do(
            (digest, execution_id), lambda: self._bind(execution_id, context)
        )

    def cached_permit(
        self, execution_id: int, context: CallContext
    ) -> tuple[Binding, Grant] | None:
        """What `authorize` answers, as far as it is known without asking."""
        digest = token_digest(context.token or "")
        binding = self._spool.bindings.binding(execution_id)
        grant = self._spool.bindings.grant(digest, execution_id)
        return (binding, grant) if binding is not None and grant is not None else None

    async def _bind(self, execution_id: int, context: CallContext) -> tuple[Binding, Grant]:
        boot = self._spool.boot
        boot_id = boot.boot_id if boot is not None else None
        reply = await self._central.bind(execution_id, context, boot_id)
        binding, grant = to_binding_and_grant(reply.decode(), reply, context, created_here=False)
        known = self._spool.bindings.binding(execution_id)
        binding = known if known is not None else binding
        await self._spool.record_binding(binding, grant)
        self._access.grant(grant.token_digest, execution_id, grant.user_id, grant.expires_at)
        return binding, grant

    async def append(self, new: NewEntry) -> int:
        """Makes a write durable and sets delivery going. Answers its number."""
        self._limits.check_write(new)
        seq = await self._spool.append(new)
        self._metrics.writes.labels(new.op, WriteState.DURABLE).inc()
        return seq

    async def submit(self, new: NewEntry, wait_s: float | None) -> tuple[int, v1.WriteAnswer]:
        """Makes a write durable; with `wait_s`, waits that long for central's word.

        Answers the HTTP status and body. A refusal within the wait is raised as its problem.
        """
        # A write that somebody waits for does not wait for a replacement.
        seq = await self.append(replace(new, coalesce_key=None) if wait_s else new)
        write_id = self._spool.write_id(seq)
        if wait_s:
            record = await self._delivery.wait_settled(seq, wait_s)
            if record is not None:
                _raise_refusal(record, write_id)
                return 200, v1.WriteAnswer(write_id, WriteState.COMMITTED)
        return 202, v1.WriteAnswer(write_id, WriteState.DURABLE)

    async def submit_and_wait(self, new: NewEntry, wait_s: float | None) -> dict[str, Any]:
        """For calls whose answer only central has. Raises `DeliveryTimeout` with the write id."""
        seq = await self.append(new)
        write_id = self._spool.write_id(seq)
        record = await self._delivery.wait_settled(seq, wait_s or DELETE_WAIT_S)
        if record is None:
            raise DeliveryTimeout("central has not answered yet", write_id=write_id)
        _raise_refusal(record, write_id)
        return record.removed or {"results": [], "console": []}

    # What became of writes

    def known_user(self, token: str) -> int | None:
        """Whose token this is, as far as that is remembered here."""
        digest = token_digest(token)
        return self._access.user_of(digest) or self._spool.bindings.user_of(digest)

    async def user_of(self, context: CallContext) -> int:
        """Whose token this is: remembered, or asked of central."""
        known = self.known_user(context.token or "")
        if known is not None:
            return known
        reply = await self._central.identify(context)
        if reply.user_id is None or reply.token_expires_at is None:
            raise CentralUnavailable("central did not say whose token this is", retry_after_s=1)
        self._access.record_user(
            token_digest(context.token or ""), reply.user_id, reply.token_expires_at
        )
        return reply.user_id

    async def find(self, write_id: str, context: CallContext) -> v1.WriteAnswer:
        user_id = await self.user_of(context)
        seq = self._spool.seq_of(write_id)
        record = await self._spool.find(seq) if seq is not None else None
        if record is None or record.user_id != user_id:
            raise WriteNotFound(f"write {write_id}")
        return self._answer(record)

    async def list_writes(self, query: v1.WritesQuery, context: CallContext) -> v1.Writes:
        user_id = await self.user_of(context)
        state = WriteState(query.state) if query.state is not None else None
        records = await self._spool.list_writes(user_id, state, query.limit)
        return v1.Writes([self._answer(record) for record in records])

    async def flush(self, timeout_s: float, context: CallContext) -> v1.FlushAnswer:
        """Raises `DeliveryTimeout` with the number of writes that still wait."""
        await self.user_of(context)
        waiting = await self._delivery.flush(timeout_s)
        if waiting:
            raise DeliveryTimeout(f"{waiting} writes still wait for central", waiting=waiting)
        return v1.FlushAnswer(delivered=True, waiting=0)

    def _answer(self, record: WriteRecord) -> v1.WriteAnswer:
        return v1.WriteAnswer(
            self._spool.write_id(record.seq),
            record.state,
            record.execution_id,
            record.op,
            record.problem,
            record.removed,
        )


def to_binding_and_grant(
    answer: dict[str, Any], reply: CentralResponse, context: CallContext, *, created_here: bool
) -> tuple[Binding, Grant]:
    """Central's yes, as the spool keeps it."""
    execution_id = answer["execution_id"]
    binding = Binding(
        execution_id,
        answer["workflow_id"],
        answer["computing_unit_id"],
        answer["user_id"],
        answer["warehouse"],
        created_here,
    )
    # An answer without an expiry is one we do not understand: good for nothing but this call.
    expires_at = reply.token_expires_at or 0
    digest = token_digest(context.token or "")
    return binding, Grant(digest, execution_id, answer["user_id"], expires_at)


def _raise_refusal(record: WriteRecord, write_id: str) -> None:
    if record.state is WriteState.REFUSED:
        problem: Problem = UpstreamProblem(_document(record), {})
        problem.members["write_id"] = write_id
        raise problem


def _document(record: WriteRecord) -> dict[str, Any]:
    fallback = {"type": "refused", "title": "Refused", "status": 409, "detail": ""}
    return fallback | (record.problem or {})
