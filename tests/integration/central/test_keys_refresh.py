"""An issuer's keys over time: rotation, withdrawal, outage."""

import asyncio
from typing import Any

import pytest

from central.auth.keys import FETCH_PAUSE_S, MAX_DOCUMENT_BYTES
from central.problems import KeysUnavailable, TokenInvalid
from tests.integration.central.issuer import (
    OTHER_RSA_KEY,
    REFRESH_S,
    RSA_KEY,
    STALE_S,
    Issuer,
    KeySetVerifier,
    jwk,
    signed,
)


async def test_withdrawn_key_voids_cached_tokens(issuer: Issuer) -> None:
    verifier = KeySetVerifier(issuer.url)
    token = signed(RSA_KEY, "one")
    await verifier.verify(token)

    issuer.document = {"keys": [jwk(OTHER_RSA_KEY, "two")]}
    verifier.now += 2 * REFRESH_S

    await verifier.assert_refused(token, "no such key")
    assert (await verifier.verify(signed(OTHER_RSA_KEY, "two"))).user_id == 1


async def test_replaced_key_with_the_same_kid_voids_cached_tokens(issuer: Issuer) -> None:
    verifier = KeySetVerifier(issuer.url)
    token = signed(RSA_KEY, "one")
    await verifier.verify(token)

    issuer.document = {"keys": [jwk(OTHER_RSA_KEY, "one")]}
    verifier.now += 2 * REFRESH_S

    await verifier.assert_refused(token, "Signature")


async def test_unknown_kid_triggers_a_fetch(issuer: Issuer) -> None:
    verifier = KeySetVerifier(issuer.url)
    await verifier.verify(signed(RSA_KEY, "one"))

    issuer.document = {"keys": [jwk(RSA_KEY, "one"), jwk(OTHER_RSA_KEY, "two")]}
    verifier.now += FETCH_PAUSE_S

    assert (await verifier.verify(signed(OTHER_RSA_KEY, "two"))).user_id == 1
    assert issuer.fetch_count == 2


async def test_unknown_kids_trigger_one_fetch_per_pause(issuer: Issuer) -> None:
    verifier = KeySetVerifier(issuer.url)
    await verifier.verify(signed(RSA_KEY, "one"))
    forged = [signed(OTHER_RSA_KEY, f"kid-{n}") for n in range(50)]

    for pauses in (1, 2, 3):
        verifier.now += FETCH_PAUSE_S
        results = await asyncio.gather(
            *(verifier.verify(token) for token in forged), return_exceptions=True
        )
        assert {type(result) for result in results} == {TokenInvalid}
        assert issuer.fetch_count == 1 + pauses


async def test_slow_issuer_does_not_delay_known_keys(issuer: Issuer) -> None:
    verifier = KeySetVerifier(issuer.url)
    token = signed(RSA_KEY, "one")
    await verifier.verify(token)
    issuer.gate.clear()
    verifier.now += REFRESH_S + 1

    for _ in range(3):
        assert (await verifier.verify(token)).user_id == 1  # while the fetch hangs
    assert issuer.fetch_count <= 2


async def test_keys_stay_valid_for_stale_s_while_the_issuer_is_down(issuer: Issuer) -> None:
    verifier = KeySetVerifier(issuer.url)
    token = signed(RSA_KEY, "one")
    await verifier.verify(token)
    issuer.status = 503

    verifier.now += REFRESH_S + STALE_S - 1
    assert (await verifier.verify(token)).user_id == 1

    verifier.now += 2 + FETCH_PAUSE_S
    with pytest.raises(KeysUnavailable) as caught:
        await verifier.verify(token)
    assert caught.value.headers["Retry-After"] == "5"

    issuer.status = 200
    verifier.now += FETCH_PAUSE_S
    assert (await verifier.verify(token)).user_id == 1


@pytest.mark.parametrize(
    "change",
    [
        {"status": 302, "headers": {"Location": "/moved"}},
        {"status": 500},
        {"status": 204},
        {"document": b'{"keys": [' + b" " * MAX_DOCUMENT_BYTES + b"]}"},
        {"document": b"<html>log in first</html>"},
        {"document": {"keys": {}}},
        {"document": {"key": []}},
        {"document": []},
        {"document": b"[" * 100_000},
        {"document": b"\xff\xfe"},
        {"headers": {"Content-Encoding": "gzip"}},
    ],
    ids=lambda change: str(change)[:60],
)
async def test_invalid_key_set_document_verifies_nothing(
    issuer: Issuer, change: dict[str, Any]
) -> None:
    for name, value in change.items():
        setattr(issuer, name, value)
    verifier = KeySetVerifier(issuer.url)

    with pytest.raises(KeysUnavailable):
        await verifier.verify(signed(RSA_KEY, "one"))

    assert issuer.fetch_count == 1  # a redirect was not followed
    assert verifier.fetch_count("failed") == 1


async def test_empty_key_set_withdraws_all_keys(issuer: Issuer) -> None:
    verifier = KeySetVerifier(issuer.url)
    token = signed(RSA_KEY, "one")
    await verifier.verify(token)

    issuer.document = {"keys": []}
    verifier.now += 2 * REFRESH_S

    await verifier.assert_refused(token)


async def test_fetch_sends_nothing_of_the_caller(issuer: Issuer) -> None:
    await KeySetVerifier(issuer.url).verify(signed(RSA_KEY, "one"))

    (headers,) = issuer.requests
    assert set(headers) <= {"Host", "Accept", "Accept-Encoding", "User-Agent"}


async def test_an_unforeseen_error_in_a_fetch_is_a_failed_fetch(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    verifier = KeySetVerifier(issuer.url)

    def fail(*_: object) -> None:
        raise OverflowError

    with monkeypatch.context() as patch:
        patch.setattr("central.auth.keys.parse_jwks", fail)
        with pytest.raises(KeysUnavailable):
            await verifier.verify(signed(RSA_KEY, "one"))
    assert "OverflowError" in caplog.text

    verifier.now += FETCH_PAUSE_S
    assert (await verifier.verify(signed(RSA_KEY, "one"))).user_id == 1
