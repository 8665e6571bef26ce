"""Sidecars' assertions: JWTs that are signed with the sidecar's own key, each for one call.

Format
    In the manner of RFC 9449: the header contains the Ed25519 public key, whose RFC 7638
    thumbprint is the *source id*. The claims bind the signature to one request: method, target,
    body, and, where they are sent, the user's token and the idempotency key. Valid for a minute
    at most.

Trust
    Anyone can generate a key; a source may write only to executions that are bound to it.
    A replay within the minute changes nothing: batches are guarded by their cursor, other
    mutating calls by their idempotency key, which is one of the claims.

Succession
    A key is replaced by a call that the old one signs, with a statement of the new one in its body:
    a JWT of another type that names the old one (`store/sources.py`).
"""

import base64
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NoReturn, TypeVar

import msgspec
from cachetools import LRUCache
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from central.auth_settings import AssertionSettings
from central.metrics import Metrics
from central.problems import AssertionInvalid, AssertionMissing

T = TypeVar("T")

HEADER = "Sidecar-Assertion"
MAX_LIFETIME_S = 60
MAX_LENGTH = 4096  # about four times what a sidecar sends
MAX_CACHED_KEYS = 4096  # sidecars of one deployment; a key is 32 bytes and its thumbprint

# JSON integers are unbounded; arithmetic with our clock needs values that fit a float.
UnixSeconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")

_FIELD_PRIME = 2**255 - 19
_SMALL_ORDER_Y = frozenset(
    {
        0,  # order 4
        1,  # the identity
        _FIELD_PRIME - 1,  # order 2
        # The two of order 8.
        int.from_bytes(
            bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
            "little",
        ),
        int.from_bytes(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
            "little",
        ),
    }
)
"""The y coordinates of the eight points of edwards25519 whose order divides the cofactor."""


class Jwk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An Ed25519 public key (RFC 8037); a private part (`d`) is refused as an unknown member."""

    kty: Literal["OKP"]
    crv: Literal["Ed25519"]
    x: str


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly these members: others (`crit`) could change the meaning of the signature."""

    alg: Literal["EdDSA"]
    typ: Literal["sidecar-assertion+jwt"]
    jwk: Jwk


class SuccessionHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another `typ`, so that neither kind of statement passes for the other (RFC 8725, 3.11)."""

    alg: Literal["EdDSA"]
    typ: Literal["sidecar-succession+jwt"]
    jwk: Jwk


class TimedClaims(msgspec.Struct, frozen=True):
    aud: str
    iat: UnixSeconds
    exp: UnixSeconds


class SuccessionClaims(TimedClaims, frozen=True):
    """The key in the header is to replace `predecessor`, a source id."""

    predecessor: str


class Claims(TimedClaims, frozen=True):
    htm: str
    htu: str
    body_sha256: str
    ath: str | None = None
    idempotency_key: str | None = None


TimedT = TypeVar("TimedT", bound=TimedClaims)


@dataclass(frozen=True, slots=True)
class SignedCall:
    """What a request's assertion signs of its head."""

    method: str
    target: str
    """Path and query, as in the request line."""
    token: str | None
    idempotency_key: str | None


@dataclass(frozen=True, slots=True)
class SignedHead:
    """A verified assertion: its source, and the digest of the body that it signs."""

    source_id: str
    body_sha256: str


class AssertionVerifier:
    """Promise: a source id is returned only if its key has signed this call within a minute.

    In two steps, because a body is read only for a verified head: `verify`, then `check_body`.
    """

    def __init__(
        self,
        settings: AssertionSettings,
        metrics: Metrics,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._now = now
        self._keys: LRUCache[str, tuple[Ed25519PublicKey, str]] = LRUCache(MAX_CACHED_KEYS)

    def verify(self, assertion: str | None, call: SignedCall) -> SignedHead:
        """Verifies all but the body. Raises `AssertionMissing` or `AssertionInvalid`."""
        try:
            head = self._verify(assertion, call)
        except (AssertionMissing, AssertionInvalid) as problem:
            self._metrics.credential("assertion", problem.slug)
            raise
        self._metrics.credential("assertion", "accepted")
        return head

    def check_body(self, head: SignedHead, body: bytes) -> None:
        """Raises `AssertionInvalid` if another body was signed."""
        if digest(body) != head.body_sha256:
            self._metrics.credential("assertion", AssertionInvalid.slug)
            _refuse("body_sha256: the assertion signs another body")

    def verify_succession(self, statement: str, predecessor: str) -> str:
        """The source whose key states that it replaces `predecessor`: proof that it is held.

        Raises `AssertionInvalid`.
        """
        source_id, claims = self._open(statement, SuccessionHeader, SuccessionClaims)
        _compare(
            {
                "aud": (claims.aud, self._settings.audience),
                "predecessor": (claims.predecessor, predecessor),
            }
        )
        return source_id

    def _verify(self, assertion: str | None, call: SignedCall) -> SignedHead:
        if assertion is None:
            raise AssertionMissing(f"expected the header {HEADER}")
        source_id, claims = self._open(assertion, Header, Claims)
        self._check_call(claims, call)
        return SignedHead(source_id, claims.body_sha256)

    def _open(
        self, jws: str, header_type: type[Header | SuccessionHeader], claims_type: type[TimedT]
    ) -> tuple[str, TimedT]:
        """The source that has signed it within a minute, and the claims."""
        if len(jws) > MAX_LENGTH or jws.count(".") != 2 or not jws.isascii():
            _refuse("expected a JWS in compact form")
        signed, _, signature = jws.rpartition(".")
        header_part, _, claims_part = signed.partition(".")
        header = _decode(header_part, header_type, "header")
        key, source_id = self._key(header.jwk.x)
        try:
            key.verify(_from_base64url(signature, "signature"), signed.encode())
        except InvalidSignature as error:
            raise AssertionInvalid("the signature is not the key's") from error
        claims = _decode(claims_part, claims_type, "claims")
        self._check_time(claims)
        return source_id, claims

    def _key(self, x: str) -> tuple[Ed25519PublicKey, str]:
        cached = self._keys.get(x)
        if cached is not None:
            return cached
        raw = _from_base64url(x, "jwk.x")
        if len(raw) != 32 or base64url(raw) != x:
            _refuse("jwk.x: expected 32 bytes in base64url")
        if not _is_private_keys_own(raw):
            _refuse("jwk.x: no private key has this public key")
        self._keys[x] = key = (Ed25519PublicKey.from_public_bytes(raw), thumbprint(x))
        return key

    def _check_time(self, claims: TimedClaims) -> None:
        lifetime_s = claims.exp - claims.iat
        if not 0 < lifetime_s <= MAX_LIFETIME_S:
            _refuse(f"expected a lifetime of at most {MAX_LIFETIME_S} s, got {lifetime_s}")
        now, skew_s = self._now(), self._settings.clock_skew_s
        if claims.iat > now + skew_s:
            _refuse(
                f"iat lies {claims.iat - now:.0f} s in the future of this server's clock: "
                "one of the two clocks is wrong (sidecars follow the Date header of responses)"
            )
        if now >= claims.exp + skew_s:
            _refuse(
                f"exp passed {now - claims.exp:.0f} s ago by this server's clock: one of the two "
                "clocks is wrong (sidecars follow the Date header of responses), or the call was "
                "delayed in transit"
            )

    def _check_call(self, claims: Claims, call: SignedCall) -> None:
        _compare(
            {
                "aud": (claims.aud, self._settings.audience),
                "htm": (claims.htm, call.method),
                "htu": (claims.htu, call.target),
                "ath": (claims.ath, None if call.token is None else digest(call.token.encode())),
                "idempotency_key": (claims.idempotency_key, call.idempotency_key),
            }
        )


def _compare(claims: Mapping[str, tuple[str | None, str | None]]) -> None:
    for name, (claimed, actual) in claims.items():
        if claimed != actual:
            _refuse(f"{name}: expected {actual!r} for this call, got {claimed!r}")


def _is_private_keys_own(public_key: bytes) -> bool:
    """False for the encodings under which a signature proves nothing (RFC 8032, section 5.1.3).

    Under a point of small order anyone can make signatures, so that a source id of it has no
    owner. A y that is not reduced is a second name of another key. The sign bit is ignored: with
    either sign these points are of small order, or do not exist.
    """
    y = int.from_bytes(public_key, "little") & (2**255 - 1)
    return y < _FIELD_PRIME and y not in _SMALL_ORDER_Y


def thumbprint(x: str) -> str:
    """The source id of an Ed25519 key: RFC 7638 over its required members, in their order."""
    return digest(f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'.encode())


def digest(octets: bytes) -> str:
    """SHA-256 in base64url without padding, the encoding of claims."""
    return base64url(hashlib.sha256(octets).digest())


def base64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _from_base64url(text: str, name: str) -> bytes:
    if not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        _refuse(f"{name}: expected base64url without padding")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _decode(part: str, struct: type[T], name: str) -> T:
    try:
        return msgspec.json.decode(_from_base64url(part, name), type=struct)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AssertionInvalid(f"{name}: {error}") from error


def _refuse(detail: str) -> NoReturn:
    raise AssertionInvalid(detail)
