"""Users' tokens: signature, claims, expiry, caching."""

import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from prometheus_client import CollectorRegistry

from central.auth.keys import SharedSecret
from central.auth.user_tokens import TokenVerifier
from central.auth_settings import TokenSettings
from central.domain.callers import User
from central.metrics import Metrics
from central.problems import RoleNotAllowed, TokenExpired, TokenInvalid
from dev.tokens import base64url, mint, part

NOW = 1_700_000_000.0
SECRET = "A-Secret-In-Mixed-Case-Of-Some-Length"
CLAIMS: dict[str, Any] = {"sub": "ann", "userId": 7, "role": "REGULAR", "exp": int(NOW) + 60}


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def verifier(clock: Clock | None = None, **settings: Any) -> TokenVerifier:
    chosen = TokenSettings(**({"secret": SECRET} | settings))
    keys, metrics = SharedSecret(chosen), Metrics(CollectorRegistry())
    clock = clock or Clock()
    return TokenVerifier(keys, chosen, metrics, now=clock, timer=clock)


def signed(
    claims: object, *, key: bytes = SECRET.lower().encode(), header: dict[str, object] | None = None
) -> str:
    """A token with any header and claims, however wrong, HMAC-SHA-256 under any key."""
    head: dict[str, object] = {"alg": "HS256", "typ": "JWT"} if header is None else header
    text = f"{part(head)}.{base64url(json.dumps(claims).encode())}"
    return f"{text}.{base64url(hmac.digest(key, text.encode(), hashlib.sha256))}"


async def test_valid_token_returns_its_user() -> None:
    token = mint(7, "ADMIN", ttl_s=60, now_s=NOW, secret=SECRET)

    user = await verifier().verify(token)

    assert user == User(7, "ADMIN", NOW + 60)
    assert user.reads_everything


async def test_secret_is_lower_cased_by_default() -> None:
    as_it_stands = signed(CLAIMS, key=SECRET.encode())

    assert (await verifier(lowercase_secret=False).verify(as_it_stands)).user_id == 7
    with pytest.raises(TokenInvalid):
        await verifier().verify(as_it_stands)


async def test_short_secret_is_accepted() -> None:
    token = signed(CLAIMS, key=b"short")

    assert (await verifier(secret="short").verify(token)).user_id == 7


@pytest.mark.parametrize(
    "claims",
    [{k: v for k, v in CLAIMS.items() if k != missing} for missing in CLAIMS]
    + [CLAIMS | {"userId": value} for value in ("7", 7.5, True, None, 0, -1, 2**31, [7])]
    + [CLAIMS | {"exp": value} for value in ("soon", None, -1, 10**15)]
    + [CLAIMS | {"sub": ""}, CLAIMS | {"sub": 7}, CLAIMS | {"role": 1}, [], "text", None],
    ids=repr,
)
async def test_incomplete_or_ill_typed_claims_are_refused(claims: object) -> None:
    with pytest.raises(TokenInvalid) as caught:
        await verifier().verify(signed(claims))

    assert caught.value.headers["WWW-Authenticate"].startswith('Bearer error="invalid_token"')


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", "HS512", "RS256", "ES256", "EdDSA"]
)
async def test_algorithm_of_the_token_is_not_trusted(algorithm: str) -> None:
    header: dict[str, object] = {"alg": algorithm, "typ": "JWT"}
    unsigned = f"{part(header)}.{part(CLAIMS)}."

    for token in (unsigned, signed(CLAIMS, header=header)):
        with pytest.raises(TokenInvalid):
            await verifier().verify(token)


async def test_a_public_key_is_no_hmac_secret() -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    for token in (signed(CLAIMS, key=public), jwt.encode(CLAIMS, private, algorithm="RS256")):
        with pytest.raises(TokenInvalid):
            await verifier().verify(token)


@pytest.mark.parametrize(
    "token",
    [
        "", ".", "..", "a.b", "a.b.c", "a.b.c.d", "\ud800", "é.é.é",
        signed(CLAIMS, key=b"another secret altogether, and long"),
        signed(CLAIMS)[:-2],
        signed(CLAIMS) + "A",
        signed(CLAIMS, header={"typ": "JWT"}),
        signed(CLAIMS, header={"alg": "HS256", "crit": ["x"], "x": 1}),
        signed(CLAIMS, header={"alg": "HS256", "kid": 7}),
    ],
)  # fmt: skip
async def test_malformed_or_foreign_token_is_refused(token: str) -> None:
    with pytest.raises(TokenInvalid):
        await verifier().verify(token)


async def test_a_changed_claim_breaks_the_signature() -> None:
    header, _, signature = signed(CLAIMS).split(".")
    forged = f"{header}.{part(CLAIMS | {'role': 'ADMIN'})}.{signature}"

    with pytest.raises(TokenInvalid):
        await verifier().verify(forged)


@pytest.mark.parametrize("is_cached", [False, True])
async def test_token_is_valid_until_30_s_after_exp(is_cached: bool) -> None:
    clock = Clock()
    verify = verifier(clock).verify
    token = signed(CLAIMS)
    if is_cached:
        await verify(token)

    clock.now = CLAIMS["exp"] + 29.9
    assert (await verify(token)).expires_at == CLAIMS["exp"]

    clock.now = CLAIMS["exp"] + 30
    with pytest.raises(TokenExpired) as caught:
        await verify(token)
    assert 'error="invalid_token"' in caught.value.headers["WWW-Authenticate"]


async def test_token_is_invalid_before_nbf() -> None:
    early = signed(CLAIMS | {"nbf": NOW + 31})
    within_the_leeway = signed(CLAIMS | {"nbf": NOW + 30})

    assert (await verifier().verify(within_the_leeway)).user_id == 7
    with pytest.raises(TokenInvalid):
        await verifier().verify(early)


async def test_cache_is_bounded_and_holds_digests_only() -> None:
    verify = verifier(cache_size=10)

    for user_id in range(1, 51):
        await verify.verify(signed(CLAIMS | {"userId": user_id}))

    cached = verify._verifier._cache
    assert len(cached) == 10
    assert {len(key) for key in cached} == {32}  # digests


@pytest.mark.parametrize("role", ["INACTIVE", "RESTRICTED", "regular", "", "OWNER"])
async def test_other_roles_are_refused(role: str) -> None:
    user = await verifier().verify(signed(CLAIMS | {"role": role}))

    with pytest.raises(RoleNotAllowed):
        user.check_role()
    assert not user.reads_everything
