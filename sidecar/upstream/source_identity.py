"""The sidecar's own key pair, and the assertion that proves each call comes from it.

The Ed25519 key is created at first start in the spool's volume and never leaves it. Its RFC 7638
thumbprint is the *source id*. A next key is put beside it to replace it (`key_rotation.py`); from
central's confirmation on it is the only one.

An assertion (a JWT in the manner of RFC 7523 and RFC 9449) covers method, path and query, body, the
user's token and the idempotency key of one call, for at most a minute: a replay can only repeat the
same call.

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
NEXT_KEY_FILE_NAME = "source-key-next.pem"
ASSERTION_LIFETIME_S = 60
"""The maximum that central accepts."""

_PKCS8_HEAD = bytes.fromhex("302e020100300506032b657004220420")
_SEED_BYTES = 32
_PEM = re.compile(
    rb"\s*-----BEGIN PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END PRIVATE KEY-----\s*"
)


class SourceKey:
    """A key pair that signs JWTs. `source_id` is public; the private key is in its file only."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self._jwk = {"crv": "Ed25519", "kty": "OKP", "x": base64url(key.verify_key.encode())}
        self.source_id = base64url(hashlib.sha256(_canonical(self._jwk)).digest())
        self._assertion_header = self._header("sidecar-assertion+jwt")

    def sign_assertion(self, claims: dict[str, Any]) -> str:
        return self._sign(self._assertion_header, claims)

    def sign_succession(self, claims: dict[str, Any]) -> str:
        return self._sign(self._header("sidecar-succession+jwt"), claims)

    def _header(self, typ: str) -> str:
        return base64url(_canonical({"alg": "EdDSA", "typ": typ, "jwk": self._jwk}))

    def _sign(self, header: str, claims: dict[str, Any]) -> str:
        signed = f"{header}.{base64url(_canonical(claims))}"
        return f"{signed}.{base64url(self._key.sign(signed.encode()).signature)}"


class SourceIdentity:
    """Signs assertions with the current key. `next_key` is to replace it, once central knows."""

    def __init__(self, key: SigningKey, audience: str, next_key: SigningKey | None = None) -> None:
        self._key = SourceKey(key)
        self._audience = audience
        self.next_key = None if next_key is None else SourceKey(next_key)

    @classmethod
    def from_volume(cls, directory: Path, audience: str) -> "SourceIdentity":
        """The identity of this spool volume, created if it has none. Raises as `load_or_create`."""
        next_path = directory / NEXT_KEY_FILE_NAME
        next_key = _load(next_path) if next_path.exists() else None
        return cls(load_or_create(directory), audience, next_key)

    @property
    def source_id(self) -> str:
        return self._key.source_id

    def succession(self, *, now: float) -> str:
        """The statement, signed by the next key, that it replaces the current one."""
        assert self.next_key is not None  # noqa: S101 (the caller has one made)
        return self.next_key.sign_succession(
            {
                "aud": self._audience,
                "iat": int(now),
                "exp": int(now) + ASSERTION_LIFETIME_S,
                "predecessor": self.source_id,
            }
        )

    def accept_successor(self, source_id: object) -> None:
        """Central has named this successor of the current key: if it is the next key, calls are
        signed with it from now on."""
        if self.next_key is not None and self.next_key.source_id == source_id:
            self._key, self.next_key = self.next_key, None

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
        return self._key.sign_assertion(claims)


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
    return _load(path)


def load_or_create_next(directory: Path) -> SigningKey:
    """The key that is to replace the current one; a new one is synced before it is first used.

    Only for the process that holds the spool's lock. Raises as `load_or_create`.
    """
    path = directory / NEXT_KEY_FILE_NAME
    if not path.exists():
        _write(path, key_to_pem(SigningKey.generate()))
    return _load(path)


def adopt_next(directory: Path) -> None:
    """The next key takes the place of the current one, which is gone from then on."""
    _rename(directory / NEXT_KEY_FILE_NAME, directory / KEY_FILE_NAME)


def _load(path: Path) -> SigningKey:
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
    _rename(unfinished, path)


def _rename(source: Path, path: Path) -> None:
    source.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
