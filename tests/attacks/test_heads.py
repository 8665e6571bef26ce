"""Heads that are too large are refused, by both services and without quoting them."""

import json

import pytest

from dev.ready import Ready
from tests.attacks.conftest import Record
from tests.attacks.hostile import exchange, head, status_of

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
