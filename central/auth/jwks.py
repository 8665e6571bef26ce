"""A JSON Web Key Set (RFC 7517) as one issuer's keys: fetched, remembered, and let go of again.

The truth is the issuer's document. It is fetched when it is first needed and again when it is
`refresh_s` old: in the background, so that a slow issuer holds nobody up, and waited for only
when it is twice that old. A key that is gone from the document is gone here, and tokens that
it had signed are verified anew (`generation`). An issuer that cannot be reached is forgiven
for `stale_s`; after that no token is believed (`KeysUnavailable`), because a withdrawn key
must not live for ever by cutting us off.

An unknown `kid` may be a key that the issuer has just begun to sign with, so it causes a fetch;
one at a time, and none within `FETCH_PAUSE_S` of the last, whatever callers send.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from central.auth.jwks_source import FetchFailed, JwksSource
from central.auth.signatures import SignatureInvalid
from central.auth_settings import JwksSettings
from central.metrics import Metrics
from central.problems import KeysUnavailable
from kit.http.logs import fields

logger = logging.getLogger(__name__)

FETCH_PAUSE_S = 10.0
RETRY_AFTER_S = 5.0
MIN_RSA_BITS = 2048  # RFC 7518, section 3.3

# What a key can be used for: its type and curve decide, `alg` may narrow it down. Symmetric
# keys (`oct`) are not in here: what anybody can read cannot be a secret.
_ALGORITHMS: Mapping[tuple[str, str | None], tuple[str, ...]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}


class Jwk(msgspec.Struct, frozen=True):
    """The members of a key that say what it is for."""

    kty: str
    kid: str | None = None
    crv: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    d: Any = None

    def algorithms(self, chosen: Sequence[str]) -> list[str]:
        """Those of `chosen` that the key may verify."""
        if self.use not in {None, "sig"} or "verify" not in (self.key_ops or ["verify"]):
            return []
        possible = _ALGORITHMS.get((self.kty, self.crv if self.kty != "RSA" else None), ())
        return [a for a in possible if a in chosen and self.alg in {None, a}]


class JwkSet(msgspec.Struct, frozen=True):
    keys: list[msgspec.Raw]


class PublicKey(msgspec.Struct, frozen=True):
    """A key for one algorithm. `material` tells whether it is still the same one."""

    key_id: str | None
    algorithm: str
    material: str
    key: jwt.PyJWK


def parse_jwks(document: bytes, algorithms: Sequence[str]) -> list[PublicKey]:
    """The keys that can be used, each for one algorithm; others are left out.

    Raises ValueError for what is no key set. Unusable members are ordinary: sets carry
    encryption keys and key types of the future (RFC 7517, section 5).
    """
    try:
        members = msgspec.json.decode(document, type=JwkSet).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no JSON Web Key Set: {error}") from error
    return [key for member in members for key in _usable(member, algorithms)]


def _usable(member: msgspec.Raw, algorithms: Sequence[str]) -> Iterator[PublicKey]:
    try:
        jwk = msgspec.json.decode(member, type=Jwk)
        if jwk.d is not None:
            logger.error("jwks has a private key", extra=fields(key_id=jwk.kid))
            return
        parts: dict[str, Any] = msgspec.json.decode(member)
        for algorithm in jwk.algorithms(algorithms):
            key = jwt.PyJWK(parts, algorithm)
            if isinstance(key.key, RSAPublicKey) and key.key.key_size < MIN_RSA_BITS:
                logger.warning("jwks has a short key", extra=fields(key_id=jwk.kid))
                return
            material = {name: parts.get(name) for name in ("kty", "crv", "n", "e", "x", "y")}
            text = msgspec.json.encode(material).decode()
            yield PublicKey(jwk.kid, algorithm, text, key)
    except (msgspec.DecodeError, jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        logger.warning("jwks member ignored", extra=fields(reason=str(error)[:200]))


class KeySet:
    """Promise: a key is answered only while it stands in the issuer's document."""

    def __init__(
        self,
        name: str,
        source: JwksSource,
        algorithms: Sequence[str],
        settings: JwksSettings,
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name` says whose keys these are, in metrics and logs: `users` or `workloads`."""
        self.algorithms = algorithms
        self._name = name
        self._source = source
        self._settings = settings
        self._metrics = metrics
        self._monotonic = monotonic
        self._keys: list[PublicKey] | None = None
        self._fetched_at = -math.inf
        self._may_fetch_at = -math.inf
        self._fetching: asyncio.Task[None] | None = None
        self._generation = 0
        self.failed_because: str | None = None

    async def generation(self) -> int:
        if self._age_s() >= self._settings.refresh_s:
            await self._refresh()
        return self._generation

    async def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK:
        await self.generation()
        key = self._lookup(key_id, algorithm)
        if key is None:
            await self._fetch_if_due()
            key = self._lookup(key_id, algorithm)
        if key is None:
            raise SignatureInvalid("kid: the issuer has no such key for this algorithm")
        return key

    def _lookup(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        fitting = [
            key
            for key in self._keys or ()
            if key.algorithm == algorithm and key_id in {None, key.key_id}
        ]
        if len(fitting) > 1:
            # Guessing which one is meant would let one key speak under another's name.
            raise SignatureInvalid("kid: names more than one key of the issuer's")
        return fitting[0].key if fitting else None

    def _age_s(self) -> float:
        return self._monotonic() - self._fetched_at

    async def _refresh(self) -> None:
        if self._age_s() >= 2 * self._settings.refresh_s:
            await self._fetch_if_due()
        else:
            self._begin_fetch()
        if self._age_s() >= self._settings.refresh_s + self._settings.stale_s:
            raise KeysUnavailable(
                "the issuer's keys cannot be had, so no token can be verified",
                retry_after_s=RETRY_AFTER_S,
            )

    async def _fetch_if_due(self) -> None:
        fetching = self._begin_fetch()
        if fetching is not None:
            await asyncio.shield(fetching)  # a caller that leaves does not cancel it for others

    def _begin_fetch(self) -> "asyncio.Task[None] | None":
        """The fetch under way, or a new one unless the last began just now."""
        if self._fetching is None and self._monotonic() >= self._may_fetch_at:
            self._may_fetch_at = self._monotonic() + FETCH_PAUSE_S
            self._fetching = asyncio.create_task(self._fetch())
        return self._fetching

    async def _fetch(self) -> None:
        try:
            self._take(parse_jwks(await self._source.fetch(), self.algorithms))
        except (FetchFailed, ValueError) as error:
            self.failed_because = str(error)
            self._metrics.jwks_fetch(self._name, "failed")
            logger.error("jwks unavailable", extra=fields(keys_of=self._name, reason=str(error)))
        else:
            self.failed_because = None
            self._metrics.jwks_fetch(self._name, "fetched")
        finally:
            self._fetching = None

    def _take(self, keys: list[PublicKey]) -> None:
        identities = {(key.key_id, key.algorithm, key.material) for key in keys}
        before = {(key.key_id, key.algorithm, key.material) for key in self._keys or ()}
        if before - identities:
            self._generation += 1
        if before != identities:
            names = sorted({str(key.key_id) for key in keys})
            logger.info("jwks taken", extra=fields(keys_of=self._name, key_ids=names[:20]))
        self._keys = keys
        self._fetched_at = self._monotonic()
