"""Central's calls by name: their requests and responses."""

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import msgspec

from sidecar.problems import CentralUnavailable
from sidecar.spool.batches import digest_of
from sidecar.spool.entry import Batch, Outcome
from sidecar.upstream.client import UNDECODABLE, CallContext, CentralClient, CentralResponse
from sidecar.upstream.probe import CentralProbe
from sidecar.upstream.run_tokens import RunTokens
from sidecar.wire.central import BatchResponse, OpenBindings, RenewedLeases, RunToken
from sidecar.wire.forwarded import ClosedExecutions

T = TypeVar("T")
WIRE_VERSION = 1
EXECUTIONS_PER_CALL = 5_000
"""In one renewal or abandonment. Central refuses more than 10,000 as a whole."""


_renewed = msgspec.json.Decoder(RenewedLeases)
_open_bindings = msgspec.json.Decoder(OpenBindings)
_closed = msgspec.json.Decoder(ClosedExecutions)
_batch_response = msgspec.json.Decoder(BatchResponse)
_run_token = msgspec.json.Decoder(RunToken)


class Central:
    """All calls to central. Raises `CentralUnavailable`, `UpstreamProblem` and `RateLimited`."""

    def __init__(
        self,
        calls: CentralClient,
        deliveries: CentralClient,
        renewals: CentralClient,
        probe: CentralProbe,
    ) -> None:
        self._calls = calls
        self._deliveries = deliveries
        self._renewals = renewals
        self._probe = probe
        self.run_tokens = RunTokens(self.exchange_run_token)

    @property
    def clock_offset_s(self) -> float:
        return self._calls.clock_offset_s

    @property
    def is_reachable(self) -> bool:
        """By the probe: calls of users have no part in it."""
        return self._probe.is_reachable

    @property
    def probe_age_s(self) -> float:
        """How old that word is at most."""
        return self._probe.age_s

    async def identify(self, context: CallContext) -> CentralResponse:
        return await self._calls.call("token", "GET", "/v1/token", context=context)

    async def create_execution(
        self, body: bytes, idempotency_key: str | None, context: CallContext
    ) -> CentralResponse:
        """Creates and binds an execution. A retry needs a key: the caller's, or a new one."""
        key = idempotency_key or new_key()
        return await self._calls.call(
            "create", "POST", "/v1/executions", context=context, body=body, idempotency_key=key
        )

    async def bind(
        self, execution_id: int, context: CallContext, boot_id: str | None = None
    ) -> CentralResponse:
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
    ) -> CentralResponse:
        """A GET, by its path and query as sent; for a run token, by central's token of its run."""
        if context.run_id is None:
            return await self._calls.call(name, "GET", target, context=context, etag=etag)

        async def send(token: str) -> CentralResponse:
            of_run = replace(context, token=token)
            return await self._calls.call(name, "GET", target, context=of_run, etag=etag)

        return await self.run_tokens.read(context.run_id, send)

    async def post(
        self,
        name: str,
        target: str,
        body: bytes,
        idempotency_key: str | None,
        context: CallContext,
    ) -> CentralResponse:
        """A mutating POST. A retry needs a key: the caller's, or a new one."""
        key = idempotency_key or new_key()
        return await self._calls.call(
            name, "POST", target, context=context, body=body, idempotency_key=key
        )

    async def post_query(
        self, name: str, target: str, body: bytes, context: CallContext
    ) -> CentralResponse:
        """A POST that changes nothing: a query too long for a URL."""
        return await self._calls.call(name, "POST", target, context=context, body=body)

    async def renew_leases(self, execution_ids: Sequence[int]) -> RenewedLeases:
        """Renews the leases of these runs, through a connection pool of its own.

        If one of several calls fails, its problem is raised: the next round renews all again.
        """
        renewed: list[RenewedLeases] = []
        for chunk in _chunks(execution_ids):
            body = msgspec.json.encode({"execution_ids": chunk})
            reply = await self._signed("renewal", "POST", "/v1/lease-renewals", body)
            renewed.append(decode_response(reply.body, _renewed))
        lost = [lease for leases in renewed for lease in leases.lost]
        return RenewedLeases(min(leases.lease_s for leases in renewed), lost)

    async def succeed(self, statement: str) -> None:
        """Replaces this source's key by the one that has signed the statement. Repeatable."""
        body = msgspec.json.encode({"statement": statement})
        await self._signed("succession", "POST", "/v1/successions", body)

    async def open_bindings(self, *, min_age_s: float) -> list[int]:
        """The unfinished executions bound to this source for at least this long."""
        target = f"/v1/bindings?min_age_s={min_age_s:.3f}"
        reply = await self._signed("bindings", "GET", target)
        open_bindings = decode_response(reply.body, _open_bindings)
        return [binding.execution_id for binding in open_bindings.bindings]

    async def abandon(self, execution_ids: Sequence[int], reason: str | None = None) -> list[int]:
        """Closes executions that no unit runs: orphaned creates, unless another reason is given.

        Returns those that were open.
        """
        named = {} if reason is None else {"reason": reason}
        closed: list[int] = []
        for chunk in _chunks(execution_ids):
            body = msgspec.json.encode({"execution_ids": chunk, **named})
            reply = await self._signed("abandon", "POST", "/v1/bindings/abandoned", body)
            closed += decode_response(reply.body, _closed).closed
        return closed

    async def exchange_run_token(self, execution_id: int) -> tuple[str, float]:
        """Central's token for a run that is bound to this source, and the seconds of its life."""
        target = f"/v1/executions/{execution_id}/run-token"
        reply = await self._signed("run-token", "POST", target)
        issued = decode_response(reply.body, _run_token)
        return issued.token, issued.expires_at.timestamp() - self._renewals.central_now()

    async def _signed(
        self, name: str, method: str, target: str, body: bytes = b""
    ) -> CentralResponse:
        """A call without a user, sent once: the caller has a retry loop of its own."""
        return await self._renewals.call(
            name,
            method,
            target,
            context=CallContext(),
            body=body,
            single_attempt=True,
        )

    async def deliver(self, batch: Batch, sent_at_ms: int) -> list[Outcome]:
        """Sends or withdraws a batch, once; retrying is the delivery loop's.

        A withdrawn batch has outcomes only if central had applied it. A response that does not fit
        the batch settles nothing: it is `CentralUnavailable`.
        """
        reply = await self._deliveries.call(
            "withdrawal" if batch.is_withdrawn else "batch",
            "POST",
            "/v1/batches",
            context=CallContext(request_id=request_id_of(batch)),
            body=batch_body(batch, sent_at_ms),
            single_attempt=True,
        )
        try:
            return outcomes_of(reply.body, batch)
        except UNDECODABLE as error:
            raise CentralUnavailable(
                f"the response does not fit batch {batch.number}: {error}",
                retry_after_s=1,
                from_unknown_server=True,
            ) from error


def _chunks(execution_ids: Sequence[int]) -> list[Sequence[int]]:
    """At least one: an empty list is a call too."""
    starts = range(0, max(1, len(execution_ids)), EXECUTIONS_PER_CALL)
    return [execution_ids[start : start + EXECUTIONS_PER_CALL] for start in starts]


def decode_response(body: bytes, decoder: "msgspec.json.Decoder[T]") -> T:
    """The body of a success. One of another form is not central's: `CentralUnavailable`."""
    try:
        return decoder.decode(body)
    except UNDECODABLE as error:
        raise CentralUnavailable(
            f"not a response of central's: {error}", retry_after_s=1, from_unknown_server=True
        ) from error


def request_id_of(batch: Batch) -> str:
    """By which a batch's calls, and the entries refused in it, are found in the logs of both."""
    return f"{batch.epoch}-{batch.number}"


def batch_body(batch: Batch, sent_at_ms: int) -> bytes:
    """The batch as it is sent. Its entries are the stored bytes that the digest covers.

    In place of a withdrawn one, an empty one that names it.
    """
    entries = () if batch.is_withdrawn else batch.entries
    head = {
        "wire": WIRE_VERSION,
        "epoch": batch.epoch,
        "batch": batch.number,
        "digest": digest_of(()) if batch.is_withdrawn else batch.digest,
        "sent_at_ms": sent_at_ms,
    }
    if batch.is_withdrawn:
        head["withdraws"] = batch.digest
    documents = b",".join(entry.payload for entry in entries)
    return msgspec.json.encode(head)[:-1] + b',"entries":[' + documents + b"]}"


def outcomes_of(body: bytes, batch: Batch) -> list[Outcome]:
    """The outcome of each entry; none if the batch was withdrawn. Raises `msgspec.DecodeError`."""
    response = _batch_response.decode(body)
    if response.batch != batch.number:
        raise msgspec.ValidationError(f"it is for batch {response.batch}")
    if batch.is_withdrawn and not response.outcomes:
        return []
    if {outcome.seq for outcome in response.outcomes} != {entry.seq for entry in batch.entries}:
        raise msgspec.ValidationError("its outcomes are not those of the batch's entries")
    return [
        Outcome(outcome.seq, outcome.outcome, outcome.problem, outcome.removed)
        for outcome in response.outcomes
    ]


def new_key() -> str:
    """A new idempotency key."""
    return secrets.token_hex(16)
