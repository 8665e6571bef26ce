"""Keys that verify JWT signatures: a shared secret, or an issuer's JSON Web Key Set (RFC 7517).

Choice of key
    Neither the algorithm nor the key is taken from the token (RFC 8725, sections 3.1 and 3.2):
    its header only selects among what the deployment has configured. A key has one algorithm,
    so a public key disguised as an HMAC secret matches none.

Life of a key set
    age        0 ........ refresh_s ............. 2 * refresh_s ....... refresh_s + stale_s
    tokens     verified   verified, while a       verified after the    503 `keys-unavailable`
                          fetch runs behind       fetch has ended

    The issuer's document is the truth. A key that the document no longer lists is gone here,
    and tokens that it signed are verified again (`key_version`). While the issuer cannot be
    reached, its keys stay valid for `stale_s` more; not for ever, because cutting us off from
    the issuer must not keep a withdrawn key alive.

    An unknown `kid` may be a key that the issuer has just introduced, so it triggers a fetch:
    one at a time, and none within `FETCH_PAUSE_S` of the last, whatever callers send.

Fetching
    The only HTTP client of central. A key set decides who may do what, so the fetch trusts
    little: no redirects, no proxy from the environment, no decompression, bounded size and time.
"""

import asyncio
import hashlib
import logging
import math
import ssl
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import aiohttp
import jwt
import msgspec
from cachetools import TTLCache
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.warnings import InsecureKeyLengthWarning

from central.auth_settings import JwksSettings, TokenSettings
from central.metrics import Metrics
from central.problems import KeysUnavailable
from kit.http.logs import fields

logger = logging.getLogger(__name__)

T = TypeVar("T")

CACHE_TTL_S = 300.0  # bounds how long a token that is no longer sent stays in memory
FETCH_PAUSE_S = 10.0
RETRY_AFTER_S = 5.0
MAX_DOCUMENT_BYTES = 512 * 1024
"""Hundreds of keys. Issuers publish two or three."""
MAX_TOKEN_LENGTH = 16 * 1024  # twice the request head that aiohttp accepts for one header
MIN_RSA_BITS = 2048  # RFC 7518, section 3.3

# The algorithms of a key: type and curve decide, `alg` may narrow them down. Symmetric keys
# (`oct`) are missing on purpose: a published document cannot hold a secret.
_ALGORITHMS: Mapping[tuple[str, str | None], tuple[str, ...]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}


class JwtInvalid(Exception):
    """Why the token is refused, in words its sender may read."""


class FetchFailed(Exception):
    """Why the key set could not be fetched, for the log and `doctor`."""


class Keys(Protocol):
    """The keys that may have signed a token."""

    @property
    def algorithms(self) -> Sequence[str]: ...

    async def key_version(self) -> int:
        """Grows when a key is withdrawn: cached verifications of older versions are void.

        Raises `KeysUnavailable`.
        """

    async def find(self, key_id: str | None, algorithm: str) -> Any:
        """The key for this `kid`. Raises `JwtInvalid` or `KeysUnavailable`."""


class CachedVerifier(Generic[T]):
    """Verifies the signatures of tokens, and caches what `parse` makes of their payloads.

    Promise: a value is returned only for a token that one of the keys has signed. Entries are
    keyed by the token's digest, so no token is kept, and are void once a key was withdrawn.
    Expiry is the caller's to check, on every call.
    """

    def __init__(
        self,
        keys: Keys,
        parse: Callable[[bytes], T],
        max_tokens: int,
        *,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """`parse` may raise `JwtInvalid` for a payload that it does not accept."""
        self._keys = keys
        self._parse = parse
        self._jws = jwt.PyJWS()  # signatures only: callers validate claims, by our clock
        self._cache: TTLCache[bytes, tuple[int, T]] = TTLCache(max_tokens, CACHE_TTL_S, timer=timer)

    async def verify(self, token: str) -> tuple[T, bool]:
        """The parsed payload, and whether it was cached.

        Raises `JwtInvalid` or `KeysUnavailable`.
        """
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        key_version = await self._keys.key_version()
        cached = self._cache.get(digest)
        if cached is not None and cached[0] == key_version:
            return cached[1], True
        value = self._parse(await self._verified_payload(token))
        self._cache[digest] = (key_version, value)
        return value, False

    async def _verified_payload(self, token: str) -> bytes:
        if len(token) > MAX_TOKEN_LENGTH:
            raise JwtInvalid(f"a token has at most {MAX_TOKEN_LENGTH} characters")
        try:
            header = jwt.get_unverified_header(token)
            algorithm = str(header.get("alg"))
            if algorithm not in self._keys.algorithms:
                raise JwtInvalid("the algorithm is not one of this deployment")
            key = await self._keys.find(header.get("kid"), algorithm)
            with warnings.catch_warnings():
                # Texera accepts secrets of any length, so a short one is no reason to refuse.
                warnings.simplefilter("ignore", InsecureKeyLengthWarning)
                payload: bytes = self._jws.decode(token, key, algorithms=[algorithm])
        except (jwt.InvalidTokenError, UnicodeError, RecursionError) as error:
            raise JwtInvalid(str(error)) from error
        return payload


def decode_claims(payload: bytes, claims_type: type[T]) -> T:
    """Raises `JwtInvalid` for missing or ill-typed claims."""
    try:
        return msgspec.json.decode(payload, type=claims_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JwtInvalid(f"claims: {error}") from error


class IssuedClaims(Protocol):
    @property
    def iss(self) -> str | None: ...

    @property
    def aud(self) -> str | list[str] | None: ...


def check_issuer_and_audience(
    claims: IssuedClaims, issuer: str | None, audience: str | None
) -> None:
    """Raises `JwtInvalid` if one of them is expected (not None) and the token has another."""
    if issuer is not None and claims.iss != issuer:
        raise JwtInvalid("iss: the token is another issuer's")
    audiences = claims.aud if isinstance(claims.aud, list) else [claims.aud]
    if audience is not None and audience not in audiences:
        raise JwtInvalid("aud: the token is for another service")


class SharedSecret:
    """The deployment's one secret. Texera lower-cases it before use, so we do too."""

    def __init__(self, settings: TokenSettings) -> None:
        secret = settings.secret.lower() if settings.lowercase_secret else settings.secret
        self._key = secret.encode()
        self.algorithms: Sequence[str] = settings.algorithms

    async def key_version(self) -> int:
        return 0

    async def find(self, key_id: str | None, algorithm: str) -> bytes:
        return self._key


class KeySet:
    """Promise: a key is returned only while the issuer's document lists it."""

    def __init__(
        self,
        issuer: str,
        source: "JwksSource",
        algorithms: Sequence[str],
        settings: JwksSettings,
        metrics: Metrics,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`issuer` names the key set in metrics and logs: `users` or `workloads`."""
        self.algorithms = algorithms
        self._issuer = issuer
        self._source = source
        self._settings = settings
        self._metrics = metrics
        self._monotonic = monotonic
        self._keys: list[PublicKey] = []
        self._fetched_at = -math.inf
        self._may_fetch_at = -math.inf
        self._fetch_task: asyncio.Task[None] | None = None
        self._key_version = 0

    async def key_version(self) -> int:
        if self._age_s() >= self._settings.refresh_s:
            await self._refresh()
        return self._key_version

    async def find(self, key_id: str | None, algorithm: str) -> jwt.PyJWK:
        await self.key_version()
        key = self._lookup(key_id, algorithm)
        if key is None:
            await self._fetch_if_due()
            key = self._lookup(key_id, algorithm)
        if key is None:
            raise JwtInvalid("kid: the issuer has no such key for this algorithm")
        return key

    def _lookup(self, key_id: str | None, algorithm: str) -> jwt.PyJWK | None:
        matching = [
            key for key in self._keys if key.algorithm == algorithm and key_id in {None, key.key_id}
        ]
        if len(matching) > 1:
            # Trying them in turn would let one key sign under another key's name.
            raise JwtInvalid("kid: names more than one key of the issuer's")
        return matching[0].key if matching else None

    def _age_s(self) -> float:
        return self._monotonic() - self._fetched_at

    async def _refresh(self) -> None:
        if self._age_s() >= 2 * self._settings.refresh_s:
            await self._fetch_if_due()
        else:
            self._start_fetch()
        if self._age_s() >= self._settings.refresh_s + self._settings.stale_s:
            raise KeysUnavailable(
                "the issuer's keys cannot be fetched, so no token can be verified",
                retry_after_s=RETRY_AFTER_S,
            )

    async def _fetch_if_due(self) -> None:
        task = self._start_fetch()
        if task is not None:
            await asyncio.shield(task)  # a caller that leaves does not cancel it for others

    def _start_fetch(self) -> "asyncio.Task[None] | None":
        """The running fetch, or a new one unless the last started within the pause."""
        if self._fetch_task is None and self._monotonic() >= self._may_fetch_at:
            self._may_fetch_at = self._monotonic() + FETCH_PAUSE_S
            self._fetch_task = asyncio.create_task(self._fetch())
        return self._fetch_task

    async def _fetch(self) -> None:
        try:
            self._replace(parse_jwks(await self._source.fetch(), self.algorithms))
        except (FetchFailed, ValueError) as error:
            self._metrics.jwks_fetch(self._issuer, "failed")
            logger.error("jwks fetch failed", extra=fields(keys_of=self._issuer, reason=str(error)))
        except Exception:  # a fault of ours must not become a 500 of whoever waits for the keys
            self._metrics.jwks_fetch(self._issuer, "failed")
            logger.exception("jwks fetch failed", extra=fields(keys_of=self._issuer))
        else:
            self._metrics.jwks_fetch(self._issuer, "fetched")
        finally:
            self._fetch_task = None

    def _replace(self, keys: "list[PublicKey]") -> None:
        before = {(key.key_id, key.algorithm, key.material) for key in self._keys}
        after = {(key.key_id, key.algorithm, key.material) for key in keys}
        if before - after:
            self._key_version += 1
        if before != after:
            names = sorted({str(key.key_id) for key in keys})
            logger.info("jwks changed", extra=fields(keys_of=self._issuer, key_ids=names[:20]))
        self._keys = keys
        self._fetched_at = self._monotonic()


class Jwk(msgspec.Struct, frozen=True):
    """The members of a key that say what it is for."""

    kty: str
    kid: str | None = None
    crv: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    d: Any = None

    def algorithms(self, allowed: Sequence[str]) -> list[str]:
        """Those of `allowed` that the key may verify."""
        if self.use not in {None, "sig"} or "verify" not in (self.key_ops or ["verify"]):
            return []
        possible = _ALGORITHMS.get((self.kty, self.crv if self.kty != "RSA" else None), ())
        return [a for a in possible if a in allowed and self.alg in {None, a}]


class JwkSet(msgspec.Struct, frozen=True):
    keys: list[msgspec.Raw]


class PublicKey(msgspec.Struct, frozen=True):
    """A key for one algorithm. `material` identifies the key itself, whatever its name."""

    key_id: str | None
    algorithm: str
    material: str
    key: jwt.PyJWK


def parse_jwks(document: bytes, algorithms: Sequence[str]) -> list[PublicKey]:
    """The usable keys, each for one algorithm. Raises ValueError for another kind of document.

    Unusable members are skipped: sets carry encryption keys and key types of the future
    (RFC 7517, section 5).
    """
    try:
        members = msgspec.json.decode(document, type=JwkSet).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"no JSON Web Key Set: {error}") from error
    return [key for member in members for key in _usable_keys(member, algorithms)]


def _usable_keys(member: msgspec.Raw, algorithms: Sequence[str]) -> Iterator[PublicKey]:
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


class JwksSource(Protocol):
    async def fetch(self) -> bytes:
        """The current document. Raises `FetchFailed`."""


def build_jwks_source(settings: JwksSettings) -> JwksSource:
    if settings.location.startswith(("http://", "https://")):
        return UrlSource(settings)
    return FileSource(Path(settings.location))


class FileSource:
    """A file that somebody else keeps up to date (a mounted ConfigMap or Secret)."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def fetch(self) -> bytes:
        try:
            return await asyncio.to_thread(_read_bounded, self._path)
        except OSError as error:
            raise FetchFailed(f"{self._path}: {error.strerror}") from error


class UrlSource:
    """An issuer's `jwks_uri`."""

    def __init__(self, settings: JwksSettings) -> None:
        self._settings = settings
        self._context: ssl.SSLContext | None = None

    async def fetch(self) -> bytes:
        settings = self._settings
        try:
            headers = await self._headers()
            async with (
                asyncio.timeout(settings.timeout_s),
                self._session() as session,
                session.get(settings.location, headers=headers, allow_redirects=False) as response,
            ):
                if response.status != 200:
                    raise FetchFailed(f"the issuer returned {response.status}, expected 200")
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise FetchFailed("the issuer compressed the document, against our Accept")
                return await _read_body(response)
        except TimeoutError as error:
            raise FetchFailed(f"no response within {settings.timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise FetchFailed(f"{type(error).__name__}: {error}") from error

    def _session(self) -> aiohttp.ClientSession:
        # One session per fetch: fetches are minutes apart and share no state.
        if self._context is None and self._settings.location.startswith("https:"):
            self._context = ssl.create_default_context(cafile=self._settings.ca_file)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._context or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )

    async def _headers(self) -> Mapping[str, str]:
        # Kubernetes serves the first type only, and returns 406 without it.
        accepted = "application/jwk-set+json, application/json"
        headers = {"Accept": accepted, "Accept-Encoding": "identity"}
        if self._settings.bearer_file is not None:
            # Kubernetes shows its key set to token holders only, and rotates the file.
            token = await asyncio.to_thread(_read_bounded, self._settings.bearer_file)
            headers["Authorization"] = f"Bearer {token.decode('ascii').strip()}"
        return headers


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_DOCUMENT_BYTES:
            raise FetchFailed(f"the document has more than {MAX_DOCUMENT_BYTES} bytes")
    return bytes(body)


def _read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        text = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(text) > MAX_DOCUMENT_BYTES:
        raise FetchFailed(f"{path} has more than {MAX_DOCUMENT_BYTES} bytes")
    return text
