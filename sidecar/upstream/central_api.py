"""Central's calls by name: what each sends and answers."""

import secrets
from collections.abc import Sequence, Set
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from sidecar.problems import CentralUnavailable
from sidecar.spool.entry import Batch, Outcome
from sidecar.upstream.client import CallContext, CentralClient, Reply

T = TypeVar("T")
WIRE_VERSION = 1


class BatchAnswer(msgspec.Struct):
    """What central answers to a batch; unknown members are for newer sidecars."""

    batch: int
    outcomes: list["OutcomeAnswer"]


class OutcomeAnswer(msgspec.Struct):
    seq: int
    outcome: Literal["applied", "refused", "deferred"]
    problem: dict[str, Any] | None = None
    removed: dict[str, Any] | None = None


class LostLease(msgspec.Struct, frozen=True):
    execution_id: int
    reason: str


class RenewedLeases(msgspec.Struct, frozen=True):
    """All that were asked for have a lease of this length now, but for those lost."""

    lease_s: Annotated[float, msgspec.Meta(gt=0)]
    lost: list[LostLease]


class _OpenBinding(msgspec.Struct):
    execution_id: int


class _OpenBindings(msgspec.Struct):
    bindings: list[_OpenBinding]


class _ClosedExecutions(msgspec.Struct):
    closed: list[int]


_renewed = msgspec.json.Decoder(RenewedLeases)
_open_bindings = msgspec.json.Decoder(_OpenBindings)
_closed = msgspec.json.Decoder(_ClosedExecutions)
_batch_answer = msgspec.json.Decoder(BatchAnswer)


class Central:
    """What the sidecar asks of central. Raises `CentralUnavailable` and `UpstreamProblem`."""

    def __init__(
        self, calls: CentralClient, deliveries: CentralClient, renewals: CentralClient
    ) -> None:
        self._calls = calls
        self._deliveries = deliveries
        self._renewals = renewals

    @property
    def clock_offset_s(self) -> float:
        return self._calls.clock_offset_s

    @property
    def is_reachable(self) -> bool:
        """As far as the last calls tell."""
        return not (self._calls.circuit.is_open or self._deliveries.circuit.is_open)

    async def identify(self, context: CallContext) -> Reply:
        return await self._calls.call("token", "GET", "/v1/token", context=context)

    async def create_execution(
        self, body: bytes, idempotency_key: str | None, context: CallContext
    ) -> Reply:
        """Creates and binds an execution. Without the caller's key a retry uses one of ours."""
        key = idempotency_key or new_key()
        return await self._calls.call(
            "create", "POST", "/v1/executions", context=context, body=body, idempotency_key=key
        )

    async def bind(
        self, execution_id: int, context: CallContext, boot_id: str | None = None
    ) -> Reply:
        return await self._calls.call(
            "bind",
            "POST",
            f"/v1/executions/{execution_id}/binding",
            context=context,
            body=msgspec.json.encode({} if boot_id is None else {"boot_id": boot_id}),
            idempotency_key=new_key(),
        )

    async def read(
        self, name: str, target: str, context: CallContext, etag: str | None = None
    ) -> Reply:
        """Any of central's reads, by its path and query as sent."""
        return await self._calls.call(name, "GET", target, context=context, etag=etag)

    async def post(
        self,
        name: str,
        target: str,
        body: bytes,
        idempotency_key: str | None,
        context: CallContext,
    ) -> Reply:
        """A POST that changes something. Without the caller's key a retry uses one of ours."""
        key = idempotency_key or new_key()
        return await self._calls.call(
            name, "POST", target, context=context, body=body, idempotency_key=key
        )

    async def post_query(self, name: str, target: str, body: bytes, context: CallContext) -> Reply:
        """A POST that changes nothing: a question too long for a query."""
        return await self._calls.call(name, "POST", target, context=context, body=body)

    async def renew_leases(self, execution_ids: Sequence[int]) -> RenewedLeases:
        """Says that these runs are alive, once, on a lane of its own."""
        body = msgspec.json.encode({"execution_ids": execution_ids})
        reply = await self._signed("renewal", "POST", "/v1/lease-renewals", body)
        return _decoded(reply, _renewed)

    async def open_bindings(self, *, min_age_s: float) -> list[int]:
        """The unfinished executions bound to this source at least so long ago."""
        target = f"/v1/bindings?min_age_s={min_age_s:.3f}"
        answer = _decoded(await self._signed("bindings", "GET", target), _open_bindings)
        return [binding.execution_id for binding in answer.bindings]

    async def abandon(self, execution_ids: Sequence[int], reason: str | None = None) -> list[int]:
        """Ends executions that nobody runs: of which there is no record here, unless another
        reason is given. Answers those that were open.
        """
        named = {} if reason is None else {"reason": reason}
        body = msgspec.json.encode({"execution_ids": execution_ids, **named})
        reply = await self._signed("abandon", "POST", "/v1/bindings/abandoned", body)
        return _decoded(reply, _closed).closed

    async def _signed(self, name: str, method: str, target: str, body: bytes = b"") -> Reply:
        """A call that needs no user; sent once, by somebody who comes again."""
        return await self._renewals.call(
            name,
            method,
            target,
            context=CallContext(),
            body=body,
            retried=False,
            behind_circuit=False,
        )

    async def deliver(self, batch: Batch, sent_at_ms: int) -> list[Outcome]:
        """Sends a batch once; whether it may be sent again is for the caller to know.

        An answer that is not one to this batch settles nothing: it is `CentralUnavailable`.
        """
        reply = await self._deliveries.call(
            "batch",
            "POST",
            "/v1/batches",
            context=CallContext(),
            body=batch_body(batch, sent_at_ms),
            retried=False,
            behind_circuit=False,
        )
        try:
            return outcomes_of(reply.body, batch.number, {entry.seq for entry in batch.entries})
        except msgspec.DecodeError as error:
            raise CentralUnavailable(
                f"the answer is not one to batch {batch.number}: {error}",
                retry_after_s=1,
                from_unknown_server=True,
            ) from error


def _decoded(reply: Reply, decoder: "msgspec.json.Decoder[T]") -> T:
    try:
        return decoder.decode(reply.body)
    except msgspec.DecodeError as error:
        raise CentralUnavailable(
            f"the answer is none of central's: {error}", retry_after_s=1, from_unknown_server=True
        ) from error


def batch_body(batch: Batch, sent_at_ms: int) -> bytes:
    """The batch as it is sent. Its entries are the stored bytes, which the digest is over."""
    head = {
        "wire": WIRE_VERSION,
        "epoch": batch.epoch,
        "batch": batch.number,
        "digest": batch.digest,
        "sent_at_ms": sent_at_ms,
    }
    documents = b",".join(entry.document for entry in batch.entries)
    return msgspec.json.encode(head)[:-1] + b',"entries":[' + documents + b"]}"


def outcomes_of(body: bytes, batch_number: int, seqs: Set[int]) -> list[Outcome]:
    """What central's answer to the batch says of each member. Raises `msgspec.DecodeError`."""
    answer = _batch_answer.decode(body)
    if answer.batch != batch_number:
        raise msgspec.ValidationError(f"it answers batch {answer.batch}")
    if {outcome.seq for outcome in answer.outcomes} != seqs:
        raise msgspec.ValidationError("it does not answer the batch's members")
    return [
        Outcome(outcome.seq, outcome.outcome, outcome.problem, outcome.removed)
        for outcome in answer.outcomes
    ]


def new_key() -> str:
    """An idempotency key of our own."""
    return secrets.token_hex(16)
