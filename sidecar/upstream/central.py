"""Central's calls by name: what each sends and answers."""

import secrets
from typing import Any

import msgspec

from sidecar.spool.entry import Batch, Outcome
from sidecar.upstream.client import CallContext, CentralClient, Reply

WIRE_VERSION = 1


class BatchAnswer(msgspec.Struct):
    """What central answers to a batch; unknown members are for newer sidecars."""

    batch: int
    outcomes: list["OutcomeAnswer"]


class OutcomeAnswer(msgspec.Struct):
    seq: int
    outcome: str
    problem: dict[str, Any] | None = None
    removed: dict[str, Any] | None = None


_batch_answer = msgspec.json.Decoder(BatchAnswer)


class Central:
    """What the sidecar asks of central. Raises `CentralUnavailable` and `RelayedProblem`."""

    def __init__(self, calls: CentralClient, deliveries: CentralClient) -> None:
        self._calls = calls
        self._deliveries = deliveries

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

    async def bind(self, execution_id: int, context: CallContext) -> Reply:
        return await self._calls.call(
            "bind",
            "POST",
            f"/v1/executions/{execution_id}/binding",
            context=context,
            body=b"{}",
            idempotency_key=new_key(),
        )

    async def read(self, name: str, target: str, context: CallContext) -> Reply:
        """Any of central's reads, by its path and query as sent."""
        return await self._calls.call(name, "GET", target, context=context)

    async def fetch_uris(self, execution_id: int, context: CallContext) -> Reply:
        return await self.read("uris", f"/v1/executions/{execution_id}/uris", context)

    async def deliver(self, batch: Batch, sent_at_ms: int) -> list[Outcome]:
        """Sends a batch once; whether it may be sent again is for the caller to know."""
        reply = await self._deliveries.call(
            "batch",
            "POST",
            "/v1/batches",
            context=CallContext(),
            body=batch_body(batch, sent_at_ms),
            retried=False,
            behind_circuit=False,
        )
        return outcomes_of(reply.body)


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


def outcomes_of(body: bytes) -> list[Outcome]:
    """What central's answer to a batch says of each member."""
    return [
        Outcome(outcome.seq, outcome.outcome, outcome.problem, outcome.removed)
        for outcome in _batch_answer.decode(body).outcomes
    ]


def new_key() -> str:
    """An idempotency key of our own."""
    return secrets.token_hex(16)
