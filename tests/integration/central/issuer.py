"""An issuer of tokens: its keys, and the key set that it publishes over real HTTP."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from prometheus_client import CollectorRegistry

from central.auth.keys import KeySet, build_jwks_source
from central.auth.user_tokens import TokenVerifier
from central.auth_settings import JwksSettings, TokenSettings
from central.metrics import Metrics
from central.problems import TokenInvalid

PrivateKey: TypeAlias = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

REFRESH_S, STALE_S = 300.0, 3600.0

RSA_KEY = rsa.generate_private_key(65537, 2048)  # slow to generate, so tests share them
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def jwk(key: PrivateKey, kid: str | None, **members: Any) -> dict[str, Any]:
    """The public half as a JWK; members given as None are left out."""
    public: Any = key.public_key()
    algorithms: dict[type, Any] = {
        rsa.RSAPrivateKey: RSAAlgorithm,
        ec.EllipticCurvePrivateKey: ECAlgorithm,
        ed25519.Ed25519PrivateKey: OKPAlgorithm,
    }
    kind = next(value for name, value in algorithms.items() if isinstance(key, name))
    found: dict[str, Any] = kind.to_jwk(public, as_dict=True)
    found = found | {"use": "sig", "kid": kid} | members
    return {name: value for name, value in found.items() if value is not None}


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a user's token, in Texera's form."""
    return {
        "sub": "owner",
        "userId": 1,
        "role": "REGULAR",
        "exp": int(time.time()) + 3600,
        **changes,
    }


def signed(key: PrivateKey, kid: str | None, algorithm: str = "RS256", **changes: Any) -> str:
    headers = {"kid": kid} if kid is not None else None
    return jwt.encode(claims(**changes), key, algorithm, headers=headers)


class Issuer:
    """A server of a key set; tests change its responses while it runs."""

    def __init__(self) -> None:
        self.document: Any = {"keys": [jwk(RSA_KEY, "one")]}
        self.status = 200
        self.headers: dict[str, str] = {}
        self.fetch_count = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.requests: list[dict[str, str]] = []
        self.url = ""

    async def serve(self, request: web.Request) -> web.Response:
        self.fetch_count += 1
        self.requests.append(dict(request.headers))
        await self.gate.wait()
        if "application/jwk-set+json" not in request.headers["Accept"]:  # as Kubernetes does
            return web.Response(status=406)
        document = self.document
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return web.Response(body=body, status=self.status, headers=self.headers)


@asynccontextmanager
async def running_issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/jwks", issuer.serve)
    app.router.add_get("/moved", issuer.serve)
    async with TestServer(app) as server:
        issuer.url = str(server.make_url("/jwks"))
        try:
            yield issuer
        finally:
            issuer.gate.set()


class KeySetVerifier:
    """A token verifier over a key set, with a clock that the test sets."""

    def __init__(self, location: str, *algorithms: str, **settings: Any) -> None:
        self.now = 1000.0
        self.registry = CollectorRegistry()
        jwks = JwksSettings(location, REFRESH_S, STALE_S, timeout_s=20.0)
        tokens = TokenSettings(algorithms=algorithms or ("RS256",), jwks=jwks, **settings)
        metrics = Metrics(self.registry)
        self.keys = KeySet(
            "users",
            build_jwks_source(jwks),
            tokens.algorithms,
            jwks,
            metrics,
            monotonic=lambda: self.now,
        )
        self.verify = TokenVerifier(self.keys, tokens, metrics).verify

    async def assert_refused(self, token: str, match: str = ".") -> None:
        with pytest.raises(TokenInvalid, match=match):
            await self.verify(token)

    def fetch_count(self, outcome: str) -> float:
        labels = {"keys": "users", "outcome": outcome}
        return self.registry.get_sample_value("central_jwks_fetches_total", labels) or 0.0
