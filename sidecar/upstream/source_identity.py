"""The sidecar's own key pair, and the assertion that proves each call comes from it.

The Ed25519 key is created at first start in the spool's volume and never leaves it. Its RFC 7638
thumbprint is the *source id*. An assertion (a JWT in the manner of RFC 7523 and RFC 9449) covers
method, path and query, body, the user's token and the idempotency key of one call, for at most a
minute: a replay can only repeat the same call.

The file is a PKCS #8 document in PEM, as openssl writes it. For an Ed25519 key without attributes
that is sixteen fixed bytes and the seed (RFC 8410, section 7), so no ASN.1 library is needed.
"""

import base64
import binascii
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

KEY_FILE_NAME = "source-key.pem"
ASSERTION_LIFETIME_S = 60
"""The maximum that central accepts."""

_PKCS8_HEAD = bytes.fromhex("302e020100300506032b657004220420")
_SEED_BYTES = 32
_PEM = re.compile(
    rb"\s*-----BEGIN PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END PRIVATE KEY-----\s*"
)


class SourceIdentity:
    """Signs assertions. `source_id` is public; the private key appears in its file only."""

    def __init__(self, key: SigningKey, audience: str) -> None:
        self._key = key
        self._audience = audience
        jwk = {"crv": "Ed25519", "kty": "OKP", "x": base64url(key.verify_key.encode())}
        self.source_id = base64url(hashlib.sha256(_canonical(jwk)).digest())
        header = {"alg": "EdDSA", "typ": "sidecar-assertion+jwt", "jwk": jwk}
        self._header = base64url(_canonical(header))

    @classmethod
    def from_volume(cls, directory: Path, audience: str) -> "SourceIdentity":
        """The identity of this spool volume, created if it has none. Raises as `load_or_create`."""
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
        return f"{signed}.{base64url(self._key.sign(signed.encode()).signature)}"


def has_key(directory: Path) -> bool:
    """Whether the volume already belongs to a sidecar."""
    return (directory / KEY_FILE_NAME).exists()


def load_or_create(directory: Path) -> SigningKey:
    """The key of this spool volume. A new one is on disk, synced, before it is first used.

    Raises OSError for an unusable directory and ValueError for a file that is no Ed25519 key.
    """
    path = directory / KEY_FILE_NAME
    if not path.exists():
        _write(path, key_to_pem(SigningKey.generate()))
    try:
        return key_from_pem(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def key_from_pem(pem: bytes) -> SigningKey:
    """Raises ValueError for anything but an unencrypted Ed25519 key."""
    match = _PEM.fullmatch(pem)
    try:
        document = base64.b64decode(match[1]) if match is not None else b""
    except binascii.Error:
        document = b""
    head, seed = document[:-_SEED_BYTES], document[-_SEED_BYTES:]
    if head != _PKCS8_HEAD:
        raise ValueError("no Ed25519 key in PKCS #8 and PEM, without a passphrase")
    return SigningKey(seed)


def key_to_pem(key: SigningKey) -> bytes:
    document = base64.b64encode(_PKCS8_HEAD + key.encode())
    return b"-----BEGIN PRIVATE KEY-----\n%s\n-----END PRIVATE KEY-----\n" % document


def _write(path: Path, pem: bytes) -> None:
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
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
