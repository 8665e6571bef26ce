"""Sidecars' assertions: each claim binds the signature to one recent call."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from prometheus_client import CollectorRegistry

from central.auth.source_assertions import AssertionVerifier, SignedCall, digest, thumbprint
from central.auth_settings import AssertionSettings
from central.metrics import Metrics
from central.problems import AssertionInvalid, AssertionMissing

NOW = 1_700_000_000
CALL = SignedCall("POST", "/v1/executions?x=%41", "the.users.token", "key-1")
BODY = b'{"a":1}'
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


X = base64url(PRIVATE.public_key().public_bytes_raw())
HEADER: dict[str, Any] = {
    "alg": "EdDSA",
    "typ": "sidecar-assertion+jwt",
    "jwk": {"kty": "OKP", "crv": "Ed25519", "x": X},
}
CLAIMS: dict[str, Any] = {
    "aud": "texera-execution-metadata",
    "iat": NOW,
    "exp": NOW + 60,
    "htm": "POST",
    "htu": CALL.target,
    "body_sha256": digest(BODY),
    "ath": digest(b"the.users.token"),
    "idempotency_key": "key-1",
}


def signed(header: object = HEADER, claims: object = CLAIMS) -> str:
    text = ".".join(base64url(json.dumps(part).encode()) for part in (header, claims))
    return f"{text}.{base64url(PRIVATE.sign(text.encode()))}"


def verifier(now: Callable[[], float] = lambda: NOW) -> AssertionVerifier:
    return AssertionVerifier(AssertionSettings(), Metrics(CollectorRegistry()), now=now)


def test_the_source_is_the_thumbprint_of_the_key() -> None:
    assert verifier().verify(signed(), CALL).source_id == thumbprint(X)


def test_the_thumbprint_is_that_of_rfc_8037() -> None:
    """Appendix A.3 of the RFC."""
    x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"

    assert thumbprint(x) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


def test_missing_assertion_has_its_own_problem() -> None:
    with pytest.raises(AssertionMissing):
        verifier().verify(None, CALL)


@pytest.mark.parametrize(
    "call",
    [
        SignedCall("PUT", CALL.target, CALL.token, CALL.idempotency_key),
        SignedCall("POST", "/v1/executions?x=A", CALL.token, CALL.idempotency_key),
        SignedCall("POST", "/v1/executions", CALL.token, CALL.idempotency_key),
        SignedCall("POST", CALL.target, "another.users.token", CALL.idempotency_key),
        SignedCall("POST", CALL.target, None, CALL.idempotency_key),
        SignedCall("POST", CALL.target, CALL.token, "key-2"),
        SignedCall("POST", CALL.target, CALL.token, None),
    ],
)
def test_assertion_is_valid_for_its_own_call_only(call: SignedCall) -> None:
    with pytest.raises(AssertionInvalid):
        verifier().verify(signed(), call)


@pytest.mark.parametrize("body", [b'{"a":2}', b""])
def test_assertion_is_valid_for_its_own_body_only(body: bytes) -> None:
    verify = verifier()
    head = verify.verify(signed(), CALL)

    verify.check_body(head, BODY)
    with pytest.raises(AssertionInvalid, match="body_sha256"):
        verify.check_body(head, body)


@pytest.mark.parametrize("name", sorted(CLAIMS))
def test_every_claim_is_required(name: str) -> None:
    claims = {key: value for key, value in CLAIMS.items() if key != name}

    with pytest.raises(AssertionInvalid):
        verifier().verify(signed(claims=claims), CALL)


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "another-service"},
        {"aud": ["texera-execution-metadata"]},
        {"htm": "post"},
        {"htu": "http://central" + CALL.target},
        {"iat": NOW, "exp": NOW + 61},
        {"iat": NOW, "exp": NOW},
        {"iat": NOW, "exp": NOW - 5},
        {"iat": str(NOW)},
        {"iat": NOW + 0.5},
        {"iat": -(10**18), "exp": 10**18},
        {"iat": 10**400, "exp": 10**400 + 60},
        {"iat": -(10**400), "exp": 60 - 10**400},
    ],
    ids=str,
)
def test_a_wrong_claim_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(AssertionInvalid):
        verifier().verify(signed(claims=CLAIMS | change), CALL)


@pytest.mark.parametrize(
    ("now", "is_good"),
    [
        (NOW - 31, False),
        (NOW - 30, True),
        (NOW, True),
        (NOW + 60, True),
        (NOW + 89.9, True),
        (NOW + 90, False),
    ],
)
def test_clocks_may_differ_by_thirty_seconds(now: float, is_good: bool) -> None:
    verify = verifier(lambda: now).verify

    if is_good:
        assert verify(signed(), CALL).source_id == thumbprint(X)
    else:
        with pytest.raises(AssertionInvalid, match="one of the two clocks is wrong"):
            verify(signed(), CALL)


def test_the_detail_says_how_far_the_clock_is_off() -> None:
    with pytest.raises(AssertionInvalid) as caught:
        verifier(lambda: NOW + 472).verify(signed(), CALL)

    assert "exp passed 412 s ago" in caught.value.detail


@pytest.mark.parametrize(
    "header",
    [
        HEADER | {"alg": "none"},
        HEADER | {"alg": "HS256"},
        HEADER | {"alg": "eddsa"},
        HEADER | {"typ": "JWT"},
        HEADER | {"crit": ["exp"]},
        HEADER | {"b64": False},
        HEADER | {"kid": "1"},
        HEADER | {"jwk": {"kty": "OKP", "crv": "X25519", "x": X}},
        HEADER | {"jwk": {"kty": "EC", "crv": "Ed25519", "x": X}},
        HEADER | {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": X, "d": X}},
        HEADER | {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": X + "="}},
        HEADER | {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": X[:-2]}},
        HEADER | {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": ""}},
        HEADER | {"jwk": {"kty": "OKP", "crv": "Ed25519"}},
        {key: value for key, value in HEADER.items() if key != "jwk"},
        {key: value for key, value in HEADER.items() if key != "typ"},
        [],
        None,
    ],
    ids=str,
)
def test_other_jws_headers_are_refused(header: object) -> None:
    with pytest.raises(AssertionInvalid):
        verifier().verify(signed(header), CALL)


def test_non_canonical_key_encoding_is_refused() -> None:
    """The last character of 32 bytes has two spare bits; another spelling is no other source."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same_bytes = X[:-1] + alphabet[alphabet.index(X[-1]) ^ 1]
    header = HEADER | {"jwk": HEADER["jwk"] | {"x": same_bytes}}

    assert base64.urlsafe_b64decode(same_bytes + "=") == base64.urlsafe_b64decode(X + "=")
    with pytest.raises(AssertionInvalid):
        verifier().verify(signed(header), CALL)


def test_signature_of_another_key_is_refused() -> None:
    other = base64url(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
    header = HEADER | {"jwk": HEADER["jwk"] | {"x": other}}

    with pytest.raises(AssertionInvalid, match="the signature is not the key's"):
        verifier().verify(signed(header), CALL)


P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
SQRT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)
IDENTITY = (0, 1)


def x_of(y: int) -> int | None:
    """One of the two x of the curve's points with this y (RFC 8032, section 5.1.3)."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    root = pow(square, (P + 3) // 8, P)
    for candidate in (root, root * SQRT_OF_MINUS_1 % P):
        if candidate * candidate % P == square:
            return candidate
    return None


def add(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    (x1, y1), (x2, y2) = a, b
    product = D * x1 * x2 * y1 * y2 % P
    return (
        (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P,
        (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P,
    )


def small_order_points() -> set[tuple[int, int]]:
    """The points of order 1, 2, 4 and 8: multiples by the prime order of any point's."""
    order = 2**252 + 27742317777372353535851937790883648493
    found: set[tuple[int, int]] = set()
    y = 2
    while len(found) < 8:
        if (x := x_of(y)) is not None:
            point, rest, power = IDENTITY, order, (x, y)
            while rest:
                if rest & 1:
                    point = add(point, power)
                rest, power = rest >> 1, add(power, power)
            multiple = point
            for _ in range(8):
                found.add(multiple)
                multiple = add(multiple, point)
        y += 1
    return found


def encodings(point: tuple[int, int]) -> set[bytes]:
    """The canonical encoding, and those with a y that is not reduced or the sign of x = 0."""
    x, y = point
    return {
        (value | sign << 255).to_bytes(32, "little")
        for value in (y, y + P)
        if value < 2**255
        for sign in ({0, 1} if x == 0 else {x & 1})
    }


WEAK_KEYS = sorted({encoding for point in small_order_points() for encoding in encodings(point)})


def test_all_encodings_of_small_order_points_are_known() -> None:
    assert len(small_order_points()) == 8
    assert len(WEAK_KEYS) == 14  # six of them are not canonical


@pytest.mark.parametrize("raw", WEAK_KEYS, ids=bytes.hex)
def test_a_key_of_small_order_verifies_nothing(raw: bytes) -> None:
    """The signature with R the identity and S 0 needs no private key."""
    forged = base64url(IDENTITY[1].to_bytes(32, "little") + bytes(32))
    header = HEADER | {"jwk": HEADER["jwk"] | {"x": base64url(raw)}}
    for attempt in range(200):
        text = ".".join(
            base64url(json.dumps(part).encode()) for part in (header, CLAIMS | {"n": attempt})
        )
        with pytest.raises(AssertionInvalid, match="no private key has this public key"):
            verifier().verify(f"{text}.{forged}", CALL)


@pytest.mark.parametrize("y", [P + 2, P + 18])
def test_a_key_whose_y_is_not_reduced_verifies_nothing(y: int) -> None:
    header = HEADER | {"jwk": HEADER["jwk"] | {"x": base64url(y.to_bytes(32, "little"))}}

    with pytest.raises(AssertionInvalid, match="no private key has this public key"):
        verifier().verify(signed(header), CALL)


def test_the_library_alone_accepts_a_forged_signature() -> None:
    """Or else our own check would not be needed."""
    key = Ed25519PublicKey.from_public_bytes(IDENTITY[1].to_bytes(32, "little"))
    signature = IDENTITY[1].to_bytes(32, "little") + bytes(32)

    key.verify(signature, b"anything")  # raises InvalidSignature otherwise
    with pytest.raises(InvalidSignature):
        PRIVATE.public_key().verify(signature, b"anything")


SIGNED_PART, _, SIGNATURE = signed().rpartition(".")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        SIGNED_PART,
        f"{SIGNED_PART}.",
        f"{SIGNED_PART}.{SIGNATURE}.AAAA",
        f"{SIGNED_PART}.{SIGNATURE[:-4]}AAAA",
        f"{SIGNED_PART}.{SIGNATURE[:-1]}*",
        f"{SIGNED_PART}.{SIGNATURE}{'=' * 4096}",
        f" {SIGNED_PART}.{SIGNATURE}",
        f"é{SIGNED_PART}.{SIGNATURE}",
        f"{SIGNED_PART}é.{SIGNATURE}",
        f"{SIGNED_PART}\udcff.{SIGNATURE}",  # a byte that is not UTF-8, as the server shows it
    ],
)
def test_malformed_jws_is_refused(text: str) -> None:
    with pytest.raises(AssertionInvalid):
        verifier().verify(text, CALL)


def test_cached_key_still_verifies_each_call() -> None:
    verify = verifier().verify
    verify(signed(), CALL)

    with pytest.raises(AssertionInvalid):
        verify(f"{SIGNED_PART}.{base64url(bytes(64))}", CALL)
