"""Signatures of JWTs: which key has signed a token, by algorithms that we have chosen.

Neither the algorithm nor the key is taken from the token (RFC 8725, sections 3.1 and 3.2): its
header may only pick among what the deployment has named. A key has one algorithm, so a public
key that is made to look like an HMAC secret finds no taker.
"""

import hashlib
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

import jwt
from jwt.warnings import InsecureKeyLengthWarning

from central.auth_settings import TokenSettings

MAX_TOKEN_LENGTH = 16 * 1024  # twice the request head that aiohttp takes for one header


class SignatureInvalid(Exception):
    """Why the token is not signed by a key that counts, in words its sender may read."""


class Keys(Protocol):
    """Where the keys come from that may have signed a token."""

    @property
    def algorithms(self) -> Sequence[str]: ...

    async def generation(self) -> int:
        """Moves when a key was withdrawn: what was verified before is to be verified anew.

        Raises `KeysUnavailable`.
        """

    async def find(self, key_id: str | None, algorithm: str) -> Any:
        """The key for this `kid`. Raises `SignatureInvalid` or `KeysUnavailable`."""


class SharedSecret:
    """The deployment's one secret. Texera lower-cases it before use, so we do too."""

    def __init__(self, settings: TokenSettings) -> None:
        secret = settings.secret.lower() if settings.lowercase_secret else settings.secret
        self._key = secret.encode()
        self.algorithms: Sequence[str] = settings.algorithms

    async def generation(self) -> int:
        return 0

    async def find(self, key_id: str | None, algorithm: str) -> bytes:
        return self._key


class SignatureVerifier:
    """Promise: a payload is answered only if a key that counts has signed it."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._jws = jwt.PyJWS()  # signatures only: claims are judged elsewhere, by our clock

    async def generation(self) -> int:
        return await self._keys.generation()

    async def payload(self, token: str) -> bytes:
        """The signed bytes. Raises `SignatureInvalid` or `KeysUnavailable`."""
        if len(token) > MAX_TOKEN_LENGTH:
            raise SignatureInvalid(f"a token has at most {MAX_TOKEN_LENGTH} characters")
        try:
            header = jwt.get_unverified_header(token)
            algorithm = str(header.get("alg"))
            if algorithm not in self._keys.algorithms:
                raise SignatureInvalid("the algorithm is not one of this deployment")
            key = await self._keys.find(header.get("kid"), algorithm)
            with warnings.catch_warnings():
                # Texera takes secrets of any length, so a short one is no reason to refuse.
                warnings.simplefilter("ignore", InsecureKeyLengthWarning)
                payload: bytes = self._jws.decode(token, key, algorithms=[algorithm])
        except (jwt.InvalidTokenError, UnicodeError, RecursionError) as error:
            raise SignatureInvalid(str(error)) from error
        return payload


def token_digest(token: str) -> bytes:
    """What stands for a token wherever it must not be kept."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
