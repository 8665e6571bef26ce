"""The wire of leases, boots, abandoned creates and keys, frozen, as that of `test_calls`."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from nacl.signing import SigningKey
from prometheus_client import CollectorRegistry

from central.auth.source_assertions import AssertionVerifier
from central.auth_settings import AssertionSettings, LimitSettings
from central.metrics import Metrics
from central.wire import calls as central
from central.wire import leases
from sidecar import metrics
from sidecar.leases.renewer import UNCLAIMED, UNIT_GONE
from sidecar.problems import CentralUnavailable
from sidecar.upstream.central_api import EXECUTIONS_PER_CALL, Central
from sidecar.upstream.client import CallContext, CentralResponse
from sidecar.upstream.source_identity import SourceIdentity
from sidecar.wire import forwarded
from sidecar.wire.central import LostLease, RenewedLeases
from tests.contract.test_calls import sample, with_news

BOOT = "master-2 @ 08:00"
CREATED = datetime(2026, 11, 24, 8, 0, 0, 500_000, tzinfo=UTC)
NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


@dataclass
class RecordingPool:
    """A connection pool to central that records requests and responds with a sample."""

    response: bytes = b"{}"
    sent: list[tuple[str, str, bytes]] = field(default_factory=list)

    async def call(self, name: str, method: str, target: str, **parts: Any) -> CentralResponse:
        self.sent.append((method, target, parts.get("body", b"")))
        return CentralResponse(200, self.response)

    def central_now(self) -> float:
        return NOW.timestamp()


def call_central(pool: RecordingPool, work: Callable[[Central], Awaitable[Any]]) -> Any:
    to_central = Central(pool, pool, pool, None)  # type: ignore[arg-type]
    return asyncio.run(work(to_central))  # type: ignore[arg-type]


def test_a_renewal_is_written_by_the_sidecar_and_read_by_central() -> None:
    pool = RecordingPool(sample("lease-renewal-answer-1"))

    response = call_central(pool, lambda c: c.renew_leases([1001, 2**31 - 1]))

    assert pool.sent == [("POST", "/v1/lease-renewals", sample("lease-renewal-request-1"))]
    read = msgspec.json.decode(pool.sent[0][2], type=leases.ExecutionList)
    assert read.execution_ids == [1001, 2**31 - 1]
    reasons = list(leases.LostReason)
    assert response == RenewedLeases(
        90.0, [LostLease(1001 + number, reason) for number, reason in enumerate(reasons)]
    )


def test_its_answer_is_written_by_central_with_every_reason_the_sidecar_counts() -> None:
    lost = [leases.LostLease(1001 + n, reason) for n, reason in enumerate(leases.LostReason)]

    assert msgspec.json.encode(leases.RenewedLeases(90.0, lost)) == sample("lease-renewal-answer-1")
    of_the_sidecar = {UNCLAIMED, UNIT_GONE}
    assert {str(reason) for reason in leases.LostReason} == (
        set(metrics.LOST_REASONS) - of_the_sidecar
    )


def test_unknown_members_and_reasons_of_a_newer_central_are_accepted() -> None:
    response = with_news(msgspec.json.decode(sample("lease-renewal-answer-1")))
    response["lost"][0]["reason"] = "moved-to-the-moon"

    renewed = call_central(
        RecordingPool(msgspec.json.encode(response)), lambda c: c.renew_leases([1001])
    )

    assert renewed.lost[0] == LostLease(1001, "moved-to-the-moon")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"lease_s":0,"lost":[]}', b"<html>", b"[]"])
def test_what_is_no_answer_renews_nothing(body: bytes) -> None:
    with pytest.raises(CentralUnavailable):
        call_central(RecordingPool(body), lambda c: c.renew_leases([1001]))


def test_a_boot_goes_from_the_unit_to_central_as_it_is_and_its_answer_back() -> None:
    request = msgspec.json.decode(sample("boot-request-1"), type=forwarded.BootRequest)

    assert msgspec.json.encode(request) == sample("boot-request-1")
    assert msgspec.json.decode(sample("boot-request-1"), type=leases.BootRequest).boot_id == BOOT
    assert msgspec.json.encode(leases.ClosedExecutions([1001, 1002])) == sample("boot-answer-1")
    decoded = msgspec.json.decode(sample("boot-answer-1"), type=forwarded.ClosedExecutions)
    assert decoded.closed == [1001, 1002]


def test_the_boot_goes_with_each_binding() -> None:
    pool = RecordingPool()

    call_central(pool, lambda c: c.bind(1001, CallContext(), BOOT))
    call_central(pool, lambda c: c.bind(1001, CallContext()))

    assert [body for _, _, body in pool.sent] == [sample("binding-request-1"), b"{}"]
    bound = msgspec.json.decode(sample("binding-request-1"), type=central.BindingRequest)
    created = msgspec.json.decode(
        sample("create-request-with-boot-1"), type=central.ExecutionRequest
    )
    assert (bound.boot_id, created.boot_id) == (BOOT, BOOT)


def test_open_bindings_are_listed_by_age_and_those_unknown_abandoned() -> None:
    pool = RecordingPool(sample("open-bindings-answer-1"))
    listed = call_central(pool, lambda c: c.open_bindings(min_age_s=12.5))
    pool.response = sample("boot-answer-1")
    ended = call_central(pool, lambda c: c.abandon([1001, 2**31 - 1]))

    assert (listed, ended) == ([1001], [1001, 1002])
    assert pool.sent == [
        ("GET", "/v1/bindings?min_age_s=12.500", b""),
        ("POST", "/v1/bindings/abandoned", sample("lease-renewal-request-1")),
    ]
    gone = call_central(pool, lambda c: c.abandon([1001], UNIT_GONE))
    body = msgspec.json.decode(pool.sent[-1][2], type=leases.AbandonedExecutions)
    assert (gone, body.reason) == ([1001, 1002], leases.AbandonReason.UNIT_GONE)
    binding = central.OpenBinding(1001, 101, 201, 1, CREATED)
    written = msgspec.json.encode(central.OpenBindings([binding]))
    assert written == sample("open-bindings-answer-1")


def test_a_run_token_is_written_by_central_and_read_by_the_sidecar() -> None:
    token = "eyJ0eXAi.eyJ1c2VyX2lkIjoxfQ.c2ln-_nYXR1cmU"
    written = msgspec.json.encode(central.RunToken(token, NOW + timedelta(minutes=5)))
    pool = RecordingPool(sample("run-token-answer-1"))

    exchanged = call_central(pool, lambda c: c.exchange_run_token(1001))

    assert written == sample("run-token-answer-1")
    assert pool.sent == [("POST", "/v1/executions/1001/run-token", b"")]
    assert exchanged == (token, 300.0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"token":"","expires_at":"2026-11-24T08:05:00Z"}',
        b'{"token":"a b","expires_at":"2026-11-24T08:05:00Z"}',
        b'{"token":"a","expires_at":"2026-11-24T08:05:00"}',
    ],
)
def test_what_is_no_run_token_is_central_unavailable(body: bytes) -> None:
    with pytest.raises(CentralUnavailable):
        call_central(RecordingPool(body), lambda c: c.exchange_run_token(1001))


def test_a_succession_is_written_by_the_sidecar_and_read_by_central() -> None:
    pool = RecordingPool(sample("succession-answer-1"))

    call_central(pool, lambda c: c.succeed("eyJhbGciOiJFZERTQSJ9.eyJhdWQiOiJ4In0.c2ln"))

    assert pool.sent == [("POST", "/v1/successions", sample("succession-request-1"))]
    read = msgspec.json.decode(pool.sent[0][2], type=central.SuccessionRequest)
    assert msgspec.json.encode(read) == sample("succession-request-1")
    answer = central.Succession(
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
        "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I",
    )
    assert msgspec.json.encode(answer) == sample("succession-answer-1")


def test_the_statement_of_a_sidecars_next_key_is_read_by_central() -> None:
    identity = SourceIdentity(
        SigningKey(bytes([1]) * 32), AssertionSettings().audience, SigningKey(bytes([2]) * 32)
    )
    verifier = AssertionVerifier(
        AssertionSettings(), Metrics(CollectorRegistry()), now=CREATED.timestamp
    )

    statement = identity.succession(now=CREATED.timestamp())

    assert identity.next_key is not None
    successor_id = verifier.verify_succession(statement, identity.source_id)
    assert successor_id == identity.next_key.source_id


def test_a_source_may_not_have_more_open_bindings_than_a_renewal_takes() -> None:
    """A binding beyond the default limit is refused (`rate-limited`), so one call renews all."""
    largest = list(range(1, EXECUTIONS_PER_CALL + 1))
    request = msgspec.json.encode({"execution_ids": largest})

    assert LimitSettings().source_open_bindings <= EXECUTIONS_PER_CALL
    assert msgspec.json.decode(request, type=leases.ExecutionList).execution_ids == largest
