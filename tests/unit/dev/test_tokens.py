"""Tokens are verified as Texera's are."""

import jwt
import pytest

from dev.__main__ import main
from dev.tokens import JWT_SECRET, mint
from dev.world import WORLD

KEY = JWT_SECRET.lower()


def test_token_has_texeras_claims() -> None:
    token = mint(7, "ADMIN", 60, name="grace", email="grace@example.org")

    claims = jwt.decode(token, KEY, algorithms=["HS256"], options={"require": ["sub", "exp"]})

    assert claims.pop("exp") > 0
    assert claims == {
        "sub": "grace",
        "userId": 7,
        "email": "grace@example.org",
        "role": "ADMIN",
    }


def test_key_is_the_lower_cased_secret() -> None:
    assert JWT_SECRET != KEY

    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(mint(7), JWT_SECRET, algorithms=["HS256"])


def test_negative_ttl_gives_an_expired_token() -> None:
    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(mint(7, ttl_s=-60), KEY, algorithms=["HS256"])


def test_expiry_counts_from_the_given_clock() -> None:
    token = mint(7, ttl_s=60, now_s=1_000_000.0)

    unverified = jwt.decode(token, options={"verify_signature": False})

    assert unverified["exp"] == 1_000_060


def test_command_prints_a_token_with_the_sample_users_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["token", "--user-id", str(WORLD.admin.user_id), "--role", "ADMIN", "--ttl", "60"]

    assert main(arguments) == 0

    claims = jwt.decode(capsys.readouterr().out.strip(), KEY, algorithms=["HS256"])
    assert (claims["sub"], claims["email"]) == ("admin", "admin@example.org")
