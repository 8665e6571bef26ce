"""Run tokens: what is signed, and what is refused."""

import jwt
import pytest
from prometheus_client import CollectorRegistry

from central.auth.run_tokens import RunTokens
from central.auth_settings import RunTokenSettings
from central.metrics import Metrics
from central.problems import TokenExpired, TokenInvalid
from dev.tokens import base64url, mint, part

SECRET = "a-secret-of-run-tokens-and-nothing-else"
HEADERS = {"kid": "a", "typ": "run+jwt"}
CLAIMS = {"user_id": 1, "execution_id": 7, "cnf": {"jkt": "source"}, "exp": 2_000}


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def tokens_of(clock: Clock) -> RunTokens:
    settings = RunTokenSettings((("a", SECRET),), lifetime_s=300.0)
    return RunTokens(settings, Metrics(CollectorRegistry()), now=clock)


def test_a_token_is_good_until_its_lifetime_ends_and_no_longer() -> None:
    clock = Clock()
    tokens = tokens_of(clock)
    token, expires_at = tokens.issue(1, 7, "source")

    clock.now = 1_299.9
    run = tokens.verify(token)
    clock.now = 1_300.0

    assert expires_at == 1_300
    assert run is not None
    assert (run.user.user_id, run.user.role, run.execution_id, run.source_id) == (
        1, "REGULAR", 7, "source",
    )  # fmt: skip
    with pytest.raises(TokenExpired):
        tokens.verify(token)


@pytest.mark.parametrize(
    "token",
    [
        mint(1),
        "",
        "nonsense",
        jwt.encode(CLAIMS, SECRET, "HS256", {"kid": "b", "typ": "run+jwt"}),
        jwt.encode(CLAIMS, SECRET, "HS256", {"kid": "a"}),
        jwt.encode(CLAIMS, SECRET * 2, "HS512", HEADERS),
        f"{part({'alg': 'none', **HEADERS})}.{part(CLAIMS)}.",
    ],
)
def test_a_token_with_another_header_is_no_run_token(token: str) -> None:
    assert tokens_of(Clock()).verify(token) is None


@pytest.mark.parametrize(
    "token",
    [
        jwt.encode(CLAIMS, "another-secret-of-thirty-two-octets", "HS256", HEADERS),
        jwt.encode(CLAIMS, SECRET, "HS256", HEADERS).rpartition(".")[0] + ".",
        jwt.encode(CLAIMS, SECRET, "HS256", HEADERS) + ".more",
        jwt.encode(CLAIMS, SECRET, "HS256", HEADERS).partition(".")[0],
        jwt.encode(CLAIMS, SECRET, "HS256", HEADERS).rpartition(".")[0]
        + f".{base64url(bytes(32))}",
        jwt.encode(CLAIMS | {"exp": "never"}, SECRET, "HS256", HEADERS),
        jwt.encode({"exp": 2_000}, SECRET, "HS256", HEADERS),
    ],
)
def test_a_token_that_is_forged_or_incomplete_is_refused(token: str) -> None:
    with pytest.raises(TokenInvalid):
        tokens_of(Clock()).verify(token)
