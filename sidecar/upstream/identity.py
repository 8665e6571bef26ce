"""The sidecar's own key pair, and the assertion that proves each call comes from it.

The key is made at first start in the spool's volume and never leaves it. Its RFC 7638
thumbprint is the *source id*. An assertion (a JWT in the manner of RFC 7523 and RFC 9449)
covers method, path and query, body, the user's token and the idempotency key of one call,
for at most a minute: replayed, it can only ask for the same thing again.
"""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

ASSERTION_LIFETIME_S = 60
"""The longest that central accepts."""
KEY_FILE_NAME = "source-key.pem"


class SourceIdentity:
    """Signs assertions. `source_id` is public; nothing else of the key is ever shown."""

    def __init__(self, key: Ed25519PrivateKey, audience: str) -> None:
        self._key = key
        self._audience = audience
        public = base64url(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        jwk = {"crv": "Ed25519", "kty": "OKP", "x": public}
        self.source_id = base64url(hashlib.sha256(_canonical(jwk)).digest())
        header = {"alg": "EdDSA", "typ": "sidecar-assertion+jwt", "jwk": jwk}
        self._header = base64url(_canonical(header))

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


def has_key(directory: Path) -> bool:
    """Whether the volume has been a sidecar's before."""
    return (directory / KEY_FILE_NAME).exists()


def load_or_create(directory: Path, audience: str) -> SourceIdentity:
    """The key of this spool volume. A new one is on disk, synced, before it is first used.

    Raises OSError for an unusable directory and ValueError for a file that is no Ed25519 key.
    """
    path = directory / KEY_FILE_NAME
    if not path.exists():
        _write_key(path, Ed25519PrivateKey.generate())
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path} holds no Ed25519 key")
    return SourceIdentity(key, audience)


def _write_key(path: Path, key: Ed25519PrivateKey) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, pem)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    unfinished.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
