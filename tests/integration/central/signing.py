"""A sidecar's key that signs calls, and an application of single routes to call."""

import base64
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry

from central.auth.authenticator import Authenticator
from central.auth.keys import SharedSecret
from central.auth.source_assertions import AssertionVerifier, digest, thumbprint
from central.auth.user_tokens import TokenVerifier
from central.auth_settings import AssertionSettings, TokenSettings
from central.metrics import Metrics
from dev.tokens import JWT_SECRET
from kit.http.routing import Route, add_routes, problem_middleware

AUDIENCE = AssertionSettings().audience


@asynccontextmanager
async def served(
    routes: Iterable[Route], resources: dict[web.AppKey[Any], Any]
) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    metrics = Metrics(CollectorRegistry())
    tokens = TokenSettings(JWT_SECRET)
    authenticator = Authenticator(
        TokenVerifier(SharedSecret(tokens), tokens, metrics),
        AssertionVerifier(AssertionSettings(), metrics),
    )
    app = web.Application(middlewares=[problem_middleware])
    for key, resource in resources.items():
        app[key] = resource
    add_routes(app, routes, authenticator.authenticate)
    async with TestClient(TestServer(app)) as client:
        yield client


@dataclass
class SigningKey:
    """A sidecar's key pair."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def x(self) -> str:
        return base64url(self.key.public_key().public_bytes_raw())

    @property
    def source_id(self) -> str:
        return thumbprint(self.x)

    def headers(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        *,
        token: str | None = None,
        idempotency_key: str | None = None,
    ) -> dict[str, str]:
        """All headers of a call, its assertion among them."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 60,
            "htm": method,
            "htu": target,
            "body_sha256": digest(body),
        }
        headers = {"Content-Type": "application/json"} if body else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
            claims["ath"] = digest(token.encode())
        if idempotency_key is not None:
            headers["Idempotency-Key"] = claims["idempotency_key"] = idempotency_key
        return headers | {"Sidecar-Assertion": self.sign(claims)}

    def succession(self, predecessor: str, **changes: Any) -> str:
        """The statement that this key replaces another."""
        now = int(time.time())
        claims = {"aud": AUDIENCE, "iat": now, "exp": now + 60, "predecessor": predecessor}
        return self.sign(claims | changes, typ="sidecar-succession+jwt")

    def sign(self, claims: dict[str, Any], typ: str = "sidecar-assertion+jwt") -> str:
        jwk = {"kty": "OKP", "crv": "Ed25519", "x": self.x}
        header = {"alg": "EdDSA", "typ": typ, "jwk": jwk}
        parts = [base64url(json.dumps(part).encode()) for part in (header, claims)]
        signature = self.key.sign(".".join(parts).encode())
        return ".".join([*parts, base64url(signature)])


def base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
