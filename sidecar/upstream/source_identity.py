"""The sidecar's own key pair, and the assertion that proves each call comes from it.

The key is made at first start in the spool's volume and never leaves it. Its RFC 7638
thumbprint is the *source id*. An assertion (a JWT in the manner of RFC 7523 and RFC 9449)
covers method, path and query, body, the user's token and the idempotency key of one call,
for at most a minute: replayed, it can only ask for the same thing again.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from sidecar.upstream.source_key import SourceKey, load_or_create

ASSERTION_LIFETIME_S = 60
"""The longest that central accepts."""


class SourceIdentity:
    """Signs assertions. `source_id` is public; nothing else of the key is ever shown."""

    def __init__(self, key: SourceKey, audience: str) -> None:
        self._key = key
        self._audience = audience
        public = base64url(key.public_bytes)
        jwk = {"crv": "Ed25519", "kty": "OKP", "x": public}
        self.source_id = base64url(hashlib.sha256(_canonical(jwk)).digest())
        header = {"alg": "EdDSA", "typ": "sidecar-assertion+jwt", "jwk": jwk}
        self._header = base64url(_canonical(header))

    @classmethod
    def of_volume(cls, directory: Path, audience: str) -> "SourceIdentity":
        """Of the key that this spool volume has or gets. Raises as `load_or_create`."""
        return cls(load_or_create(directory), audience)

    def assertion(
        self,
        method: str,
        target: str,
        body: bytes,
        *,
        now: float,
        token: str | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """The assertion of one call. `target` is path and query as they are sent."""
        claims: dict[str, Any] = {
            "aud": self._audience,
            "iat": int(now),
            "exp": int(now) + ASSERTION_LIFETIME_S,
            "htm": method,
            "htu": target,
            "body_sha256": base64url(hashlib.sha256(body).digest()),
        }
        if token is not None:
            claims["ath"] = base64url(hashlib.sha256(token.encode()).digest())
        if idempotency_key is not None:
            claims["idempotency_key"] = idempotency_key
        signed = f"{self._header}.{base64url(_canonical(claims))}"
        return f"{signed}.{base64url(self._key.sign(signed.encode()))}"


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
