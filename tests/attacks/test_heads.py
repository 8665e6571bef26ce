"""Heads that are too large are refused, by both services and without quoting them."""

import json

import pytest

from dev.ready import Ready
from tests.attacks.conftest import Record
from tests.attacks.hostile import exchange, head, status_of
from tests.integration.central.signing import SigningKey

SECRET = "c2VjcmV0"


@pytest.mark.parametrize("service", ["sidecar", "central"])
@pytest.mark.parametrize("length", [9_000, 40_000])
def test_a_head_that_is_too_large_is_431_and_not_quoted(
    system: Ready, record: Record, service: str, length: int
) -> None:
    authorization = f"Bearer {SECRET * (length // len(SECRET))}"

    response = exchange(
        system[service],  # type: ignore[literal-required]
        head("GET", "/v1/token", {"Authorization": authorization}),
    )

    top, _, body = response.partition(b"\r\n\r\n")
    assert status_of(response) == 431
    assert b"application/problem+json" in top
    assert json.loads(body)["type"] == "head-too-large"
    assert SECRET.encode() not in response
    record(f"431, {len(response)} bytes, none of them the caller's")


@pytest.mark.parametrize("service", ["sidecar", "central"])
def test_bytes_that_are_no_text_are_refused_in_every_header(
    system: Ready, record: Record, service: str
) -> None:
    """Handlers see a byte that is not UTF-8 as a surrogate, which cannot be encoded."""
    key, target = SigningKey(), "/v1/lease-renewals" if service == "central" else "/v1/executions"
    token = system["users"]["owner"]["token"]
    good = key.headers("POST", target, b"{}", token=token, idempotency_key="one")
    good |= {"Content-Type": "application/json", "Content-Length": "2"}
    good |= dict.fromkeys(("traceparent", "tracestate", "Prefer", "If-None-Match"), "xx")
    statuses = {}
    for name, value in good.items():
        if name != "Content-Length":
            half = len(value) // 2
            sent = good | {name: value[:half] + "\xff" + value[half:]}
            response = exchange(
                system[service],  # type: ignore[literal-required]
                head("POST", target, sent) + b"{}",
            )
            statuses[name] = status_of(response)

    record(", ".join(f"{name}: {status}" for name, status in statuses.items()))
    assert all(400 <= status < 500 for status in statuses.values()), statuses
