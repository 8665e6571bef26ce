"""An issuer's keys over time: rotated, withdrawn, out of reach."""

import asyncio
from typing import Any

import pytest

from central.auth.jwks import FETCH_PAUSE_S
from central.auth.jwks_source import MAX_BYTES
from central.problems import KeysUnavailable, TokenInvalid
from tests.integration.central.issuer import (
    OTHER_RSA_KEY,
    REFRESH_S,
    RSA_KEY,
    STALE_S,
    Issuer,
    Verifying,
    jwk,
    signed,
)


async def test_a_withdrawn_key_is_refused_though_its_token_is_remembered(issuer: Issuer) -> None:
    verifying = Verifying(issuer.url)
    token = signed(RSA_KEY, "one")
    await verifying.verify(token)

    issuer.document = {"keys": [jwk(OTHER_RSA_KEY, "two")]}
    verifying.now += 2 * REFRESH_S

    await verifying.refuses(token, "no such key")
    assert (await verifying.verify(signed(OTHER_RSA_KEY, "two"))).user_id == 1


async def test_a_key_of_another_value_under_an_old_name_is_another_key(issuer: Issuer) -> None:
    verifying = Verifying(issuer.url)
    token = signed(RSA_KEY, "one")
    await verifying.verify(token)

    issuer.document = {"keys": [jwk(OTHER_RSA_KEY, "one")]}
    verifying.now += 2 * REFRESH_S

    await verifying.refuses(token, "Signature")


async def test_a_new_key_is_fetched_when_its_name_first_appears(issuer: Issuer) -> None:
    verifying = Verifying(issuer.url)
    await verifying.verify(signed(RSA_KEY, "one"))

    issuer.document = {"keys": [jwk(RSA_KEY, "one"), jwk(OTHER_RSA_KEY, "two")]}
    verifying.now += FETCH_PAUSE_S

    assert (await verifying.verify(signed(OTHER_RSA_KEY, "two"))).user_id == 1
    assert issuer.fetch_count == 2


async def test_unknown_names_cause_one_fetch_a_pause_however_many_come(issuer: Issuer) -> None:
    verifying = Verifying(issuer.url)
    await verifying.verify(signed(RSA_KEY, "one"))
    forged = [signed(OTHER_RSA_KEY, f"kid-{n}") for n in range(50)]

    for pauses in (1, 2, 3):
        verifying.now += FETCH_PAUSE_S
        told = await asyncio.gather(
            *(verifying.verify(token) for token in forged), return_exceptions=True
        )
        assert {type(answer) for answer in told} == {TokenInvalid}
        assert issuer.fetch_count == 1 + pauses


async def test_a_slow_issuer_holds_up_nobody_whose_key_is_known(issuer: Issuer) -> None:
    verifying = Verifying(issuer.url)
    token = signed(RSA_KEY, "one")
    await verifying.verify(token)
    issuer.gate.clear()
    verifying.now += REFRESH_S + 1

    for _ in range(3):
        assert (await verifying.verify(token)).user_id == 1  # while the fetch hangs
    assert issuer.fetch_count <= 2


async def test_an_issuer_that_cannot_be_reached_is_forgiven_for_a_while(issuer: Issuer) -> None:
    verifying = Verifying(issuer.url)
    token = signed(RSA_KEY, "one")
    await verifying.verify(token)
    issuer.status = 503

    verifying.now += REFRESH_S + STALE_S - 1
    assert (await verifying.verify(token)).user_id == 1

    verifying.now += 2 + FETCH_PAUSE_S
    with pytest.raises(KeysUnavailable) as caught:
        await verifying.verify(token)
    assert caught.value.headers["Retry-After"] == "5"

    issuer.status = 200
    verifying.now += FETCH_PAUSE_S
    assert (await verifying.verify(token)).user_id == 1


@pytest.mark.parametrize(
    "change",
    [
        {"status": 302, "headers": {"Location": "/moved"}},
        {"status": 500},
        {"status": 204},
        {"document": b'{"keys": [' + b" " * MAX_BYTES + b"]}"},
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
async def test_what_is_no_key_set_verifies_nothing(issuer: Issuer, change: dict[str, Any]) -> None:
    for name, value in change.items():
        setattr(issuer, name, value)
    verifying = Verifying(issuer.url)

    with pytest.raises(KeysUnavailable):
        await verifying.verify(signed(RSA_KEY, "one"))

    assert issuer.fetch_count == 1  # a redirect was not followed
    assert verifying.keys.failed_because is not None


async def test_a_set_that_no_longer_has_keys_withdraws_them_all(issuer: Issuer) -> None:
    verifying = Verifying(issuer.url)
    token = signed(RSA_KEY, "one")
    await verifying.verify(token)

    issuer.document = {"keys": []}
    verifying.now += 2 * REFRESH_S

    await verifying.refuses(token)


async def test_nothing_of_a_caller_goes_to_the_issuer(issuer: Issuer) -> None:
    await Verifying(issuer.url).verify(signed(RSA_KEY, "one"))

    (asked,) = issuer.asked
    assert set(asked) <= {"Host", "Accept", "Accept-Encoding", "User-Agent"}
