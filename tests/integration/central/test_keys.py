"""Tokens under an issuer's key set, fetched over real HTTP; known key-confusion attacks."""

import base64
import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from central.auth.keys import FETCH_PAUSE_S, parse_jwks
from dev.tokens import part, sign
from tests.integration.central.issuer import (
    EC_KEY,
    ED_KEY,
    OTHER_RSA_KEY,
    RSA_KEY,
    Issuer,
    KeySetVerifier,
    claims,
    jwk,
    signed,
)


async def test_token_of_the_issuer_returns_its_user(issuer: Issuer) -> None:
    verifier = KeySetVerifier(issuer.url)

    users = [await verifier.verify(signed(RSA_KEY, "one", userId=n)) for n in (7, 8, 9)]

    assert [user.user_id for user in users] == [7, 8, 9]
    assert issuer.fetch_count == 1


@pytest.mark.parametrize(
    ("key", "algorithm"), [(RSA_KEY, "PS256"), (EC_KEY, "ES256"), (ED_KEY, "EdDSA")]
)
async def test_each_kind_of_key_verifies(issuer: Issuer, key: Any, algorithm: str) -> None:
    issuer.document = {"keys": [jwk(key, "k")]}

    user = await KeySetVerifier(issuer.url, algorithm).verify(signed(key, "k", algorithm))

    assert user.user_id == 1


async def test_changed_key_set_file_is_reloaded(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [jwk(RSA_KEY, "one")]}))
    verifier = KeySetVerifier(str(path))
    old, new = signed(RSA_KEY, "one"), signed(OTHER_RSA_KEY, "two")
    await verifier.verify(old)

    path.write_text(json.dumps({"keys": [jwk(OTHER_RSA_KEY, "two")]}))
    verifier.now += FETCH_PAUSE_S

    assert (await verifier.verify(new)).user_id == 1
    await verifier.assert_refused(old, "kid")


# --- confusion


async def test_algorithm_comes_from_the_settings(issuer: Issuer) -> None:
    verifier = KeySetVerifier(issuer.url, "RS256")

    for algorithm in ("RS384", "PS256"):
        await verifier.assert_refused(signed(RSA_KEY, "one", algorithm), "algorithm")
    unsigned = f"{part({'alg': 'none', 'kid': 'one'})}.{part(claims())}."
    await verifier.assert_refused(unsigned, "algorithm")


async def test_a_public_key_is_no_hmac_secret(issuer: Issuer) -> None:
    verifier = KeySetVerifier(issuer.url, "RS256")
    public = RSA_KEY.public_key()
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(jwk(RSA_KEY, "one")).encode(),
        base64.urlsafe_b64decode(jwk(RSA_KEY, "one")["n"] + "=="),
    ):
        await verifier.assert_refused(sign(claims(), secret), "algorithm")


async def test_published_symmetric_key_verifies_nothing(issuer: Issuer) -> None:
    secret = base64.urlsafe_b64encode(b"published-so-no-secret-at-all-32").rstrip(b"=").decode()
    issuer.document["keys"].append({"kty": "oct", "kid": "shared", "alg": "HS256", "k": secret})

    forged = jwt.encode(
        claims(), b"published-so-no-secret-at-all-32", "HS256", headers={"kid": "shared"}
    )

    await KeySetVerifier(issuer.url, "RS256").assert_refused(forged)
    assert parse_jwks(json.dumps(issuer.document).encode(), ["HS256"]) == []


async def test_published_private_key_verifies_nothing(
    issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has read the set could sign with it."""
    private = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(RSA_KEY))
    issuer.document = {"keys": [private | {"kid": "one"}]}

    await KeySetVerifier(issuer.url).assert_refused(signed(RSA_KEY, "one"), "kid")

    assert "jwks has a private key" in caplog.messages
    assert private["d"] not in caplog.text


async def test_key_verifies_under_its_own_kid_only(issuer: Issuer) -> None:
    issuer.document = {"keys": [jwk(RSA_KEY, "one"), jwk(OTHER_RSA_KEY, "two")]}
    verifier = KeySetVerifier(issuer.url)

    await verifier.assert_refused(signed(OTHER_RSA_KEY, "one"), "Signature")
    await verifier.assert_refused(signed(RSA_KEY, None), "more than one")
    await verifier.assert_refused(signed(RSA_KEY, "../../dev/null"), "no such key")
    assert (await verifier.verify(signed(RSA_KEY, "one"))).user_id == 1


async def test_ambiguous_kid_verifies_nothing(issuer: Issuer) -> None:
    issuer.document = {"keys": [jwk(RSA_KEY, "one"), jwk(OTHER_RSA_KEY, "one")]}
    verifier = KeySetVerifier(issuer.url)

    for key in (RSA_KEY, OTHER_RSA_KEY):
        await verifier.assert_refused(signed(key, "one"), "more than one")


async def test_token_without_kid_is_valid_with_a_single_key(issuer: Issuer) -> None:
    assert (await KeySetVerifier(issuer.url).verify(signed(RSA_KEY, None))).user_id == 1


@pytest.mark.parametrize(
    "members",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"alg": "RS512"},
        {"kty": "EC"},
        {"n": "AQAB"},
        {"n": 5},
        {"d": "AQAB"},
    ],
    ids=str,
)
async def test_key_for_another_use_verifies_nothing(
    issuer: Issuer, members: dict[str, Any]
) -> None:
    issuer.document = {"keys": [jwk(RSA_KEY, "one", **members), jwk(OTHER_RSA_KEY, "two")]}
    verifier = KeySetVerifier(issuer.url)

    await verifier.assert_refused(signed(RSA_KEY, "one"))
    assert (await verifier.verify(signed(OTHER_RSA_KEY, "two"))).user_id == 1


async def test_a_short_rsa_key_verifies_nothing(issuer: Issuer) -> None:
    short = rsa.generate_private_key(65537, 1024)  # noqa: S505 (to be refused)
    issuer.document = {"keys": [jwk(short, "short")]}

    with pytest.warns(jwt.warnings.InsecureKeyLengthWarning):
        token = signed(short, "short")
    await KeySetVerifier(issuer.url).assert_refused(token, "no such key")


# --- claims


async def test_issuer_and_audience_are_checked_if_set(issuer: Issuer) -> None:
    verifier = KeySetVerifier(issuer.url, issuer="https://idp", audience="texera")

    good = [
        signed(RSA_KEY, "one", iss="https://idp", aud="texera"),
        signed(RSA_KEY, "one", iss="https://idp", aud=["other", "texera"]),
    ]
    bad = {
        signed(RSA_KEY, "one", iss="https://idp"): "aud",
        signed(RSA_KEY, "one", iss="https://idp", aud=["texera-2"]): "aud",
        signed(RSA_KEY, "one", aud="texera"): "iss",
        signed(RSA_KEY, "one", iss="https://idp/", aud="texera"): "iss",
    }

    for token in good:
        assert (await verifier.verify(token)).user_id == 1
    for token, claim in bad.items():
        await verifier.assert_refused(token, f"^{claim}: ")
