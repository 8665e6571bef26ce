"""The sidecar's Ed25519 key and the file that keeps it, in the form that openssl writes.

A PKCS #8 document of an Ed25519 key without attributes is sixteen fixed bytes and the seed (RFC
8410, section 7). That is all that is read or written here, so no library of ASN.1 is needed.
"""

import base64
import binascii
import os
import re
from pathlib import Path

from nacl.signing import SigningKey

KEY_FILE_NAME = "source-key.pem"

_PKCS8_HEAD = bytes.fromhex("302e020100300506032b657004220420")
_SEED_BYTES = 32
_PEM = re.compile(
    rb"\s*-----BEGIN PRIVATE KEY-----\s+([A-Za-z0-9+/=\s]+?)\s*-----END PRIVATE KEY-----\s*"
)


class SourceKey:
    """Signs. Its public half is no secret; the rest is shown to nobody but the key's file."""

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "SourceKey":
        return cls(SigningKey.generate())

    @classmethod
    def of_pem(cls, pem: bytes) -> "SourceKey":
        """Raises ValueError for anything but an unencrypted Ed25519 key."""
        match = _PEM.fullmatch(pem)
        try:
            document = base64.b64decode(match[1]) if match is not None else b""
        except binascii.Error:
            document = b""
        head, seed = document[:-_SEED_BYTES], document[-_SEED_BYTES:]
        if head != _PKCS8_HEAD:
            raise ValueError("no Ed25519 key in PKCS #8 and PEM, without a passphrase")
        return cls(SigningKey(seed))

    @property
    def public_bytes(self) -> bytes:
        """The 32 bytes of RFC 8032."""
        return self._key.verify_key.encode()

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature."""
        return self._key.sign(message).signature

    def pem(self) -> bytes:
        document = base64.b64encode(_PKCS8_HEAD + self._key.encode())
        return b"-----BEGIN PRIVATE KEY-----\n%s\n-----END PRIVATE KEY-----\n" % document


def has_key(directory: Path) -> bool:
    """Whether the volume has been a sidecar's before."""
    return (directory / KEY_FILE_NAME).exists()


def load_or_create(directory: Path) -> SourceKey:
    """The key of this spool volume. A new one is on disk, synced, before it is first used.

    Raises OSError for an unusable directory and ValueError for a file that is no Ed25519 key.
    """
    path = directory / KEY_FILE_NAME
    if not path.exists():
        _write(path, SourceKey.generate().pem())
    try:
        return SourceKey.of_pem(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


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
        os.fsync(directory)
    finally:
        os.close(directory)
